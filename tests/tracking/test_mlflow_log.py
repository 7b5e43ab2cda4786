"""What libraries log is in a file, without passwords, and never on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking import mlflow_log
from pipeline.tracking.mlflow_log import log_to_file


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    yield
    log_to_file()


def say(text: str) -> None:
    logging.getLogger("mlflow.store.db.utils").error(text)


def test_it_goes_to_the_file_without_passwords(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log_to_file(tmp_path)
    say("cannot reach postgresql://u:hunter2@db/x")
    text = (tmp_path / "store.log").read_text()
    assert "postgresql://db/x" in text and "hunter2" not in text
    assert capfd.readouterr() == ("", "")


def test_where_it_cannot_be_written_nothing_is_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log_to_file(tmp_path / "absent")
    say("no folder")
    target = tmp_path / "settings"
    target.write_text("mine")
    (tmp_path / "store.log").symlink_to(target)
    log_to_file(tmp_path)
    say("a link")
    assert target.read_text() == "mine" and not (tmp_path / "absent").exists()
    assert capfd.readouterr() == ("", "")


def test_it_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_log, "LIMIT", 500)
    log_to_file(tmp_path)
    for _ in range(100):
        say("x" * 100)
    assert (tmp_path / "store.log").stat().st_size < 1000
