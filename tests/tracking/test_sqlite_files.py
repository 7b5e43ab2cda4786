"""SQLite files that are made whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.tracking.sqlite_files import is_filled, made_aside, use_wal


def test_a_file_is_in_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "folder" / "a.db"
    with made_aside(place) as aside:
        aside.write_text("half")
        assert not place.exists() and aside.parent == place.parent
        aside.write_text("whole")
    assert [(path.name, path.read_text()) for path in place.parent.iterdir()] == [("a.db", "whole")]


def test_what_fails_leaves_the_place_as_it_was_and_may_be_tried_again(tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    with pytest.raises(RuntimeError), made_aside(place) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert not place.exists()
    with made_aside(place) as aside:
        assert not aside.exists(), "the half of the first try is not gone on with"
        aside.write_text("whole")
    assert place.read_text() == "whole"


def test_a_block_that_makes_nothing_changes_nothing(tmp_path: Path) -> None:
    with made_aside(tmp_path / "a.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    assert not is_filled(file)
    sqlite3.connect(file).close()
    assert not is_filled(file)
    use_wal(file)
    assert is_filled(file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
