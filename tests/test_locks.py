"""Locks are held by one process, and by nobody from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import locks
from pipeline.locks import exclusive, open_lock


def test_an_exclusive_section_is_left_when_it_cannot_be_had(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", 1) as got:
        assert got
        with exclusive(tmp_path / "lock", 0.1) as second:
            assert not second
    with exclusive(tmp_path / "lock", 0) as got:
        assert got
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_who_waits_for_a_while_is_told_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.1)
    with exclusive(tmp_path / "lock", 1), exclusive(tmp_path / "lock", 0.05):
        pass
    assert capsys.readouterr().err == "", "not at once"
    with exclusive(tmp_path / "lock", 1), exclusive(tmp_path / "lock", 0.4):
        pass
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(tmp_path / "lock") in line and "another process" in line


def test_nobody_else_can_open_a_lock_and_so_hold_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(open_lock(tmp_path / "new"))
        (tmp_path / "old").write_text("of an earlier version")
        (tmp_path / "old").chmod(0o644)
        os.close(open_lock(tmp_path / "old"))
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert (tmp_path / "old").read_text() == "of an earlier version"


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="lock"), exclusive(tmp_path / "lock", 1):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"
