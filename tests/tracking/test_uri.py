"""Addresses: which are taken, and the file behind one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.tracking.uri import resolve_uri, scheme_of, sqlite_file


def test_the_flag_goes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert resolve_uri(None) == "http://host:5000"
    assert resolve_uri("sqlite+pysqlite:///a/../b.db") == f"sqlite+pysqlite:///{tmp_path}/b.db"


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///x", "sqlite:///", "sqlite://", "sqlite:///?x=1", "sqlite:///:memory:"]
)
def test_what_cannot_hold_runs_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="--tracking-uri"):
        resolve_uri(uri)


def test_a_refused_address_is_shown_without_its_password() -> None:
    with pytest.raises(InputError) as refused:
        resolve_uri("ftp://user:hunter2@host/x")
    assert "hunter2" not in str(refused.value) and "ftp://host/x" in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "scheme", "file"),
    [
        ("sqlite:////data/a.db", "sqlite", Path("/data/a.db")),
        ("sqlite+pysqlite:////data/a.db", "sqlite", Path("/data/a.db")),
        ("postgresql+psycopg2://host/db", "postgresql", None),
        ("sqliteish://x", "sqliteish", None),
        ("sqlite", "", None),
    ],
)
def test_the_kind_and_the_file_of_an_address(uri: str, scheme: str, file: Path | None) -> None:
    assert (scheme_of(uri), sqlite_file(uri)) == (scheme, file)


@pytest.mark.parametrize(
    "uri",
    [
        *("http://u:secret@[::1/x", "https://h:99999", "http://h:port", "http://", "http://:5000", "https:///x"),
        *("postgresql://u:secret@[::1/x", "sqlite:///a\udc80.db", "http://h:0"),
    ],
)
def test_an_address_that_is_none_is_refused_in_one_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--tracking-uri: .* is not allowed; allowed: ") as caught:
        resolve_uri(uri)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("uri", ["http://[::1]:5000", "https://u:p%5Bx@host/mlflow", "postgresql://u:p/w@h/db"])
def test_an_address_that_is_one_is_kept(uri: str) -> None:
    assert resolve_uri(uri) == uri


def test_a_folder_whose_name_is_not_utf_8_holds_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="UTF-8, its folder's included"):
        resolve_uri(None)
