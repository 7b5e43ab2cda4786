"""Addresses: which are taken, and the file behind one."""

from __future__ import annotations

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
