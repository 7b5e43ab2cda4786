"""The tables of a SQLite store: one process makes them, and what a killed one left is cleared away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.tracking import mlflow_database
from pipeline.tracking.mlflow_database import initialising, make_tables


def test_tables_that_are_ready_are_copied_and_leftovers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_database, "migrate", lambda *_: pytest.fail("they were ready"))
    ready, database = tmp_path / "ready.db", tmp_path / "store" / "mlflow.db"
    ready.write_text("tables")
    database.parent.mkdir()
    database.with_name("mlflow.db.new-12345").write_text("of a process that was killed")
    make_tables(database, "sqlite:///x", ready)
    assert [(path.name, path.read_text()) for path in database.parent.iterdir()] == [("mlflow.db", "tables")]


def test_without_them_mlflow_makes_them_beside_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "mlflow.db"

    def migrate(aside: Path, uri: str) -> None:
        assert (aside.parent, uri) == (tmp_path, "sqlite:///x") and not database.exists()
        aside.write_text("made")

    monkeypatch.setattr(mlflow_database, "migrate", migrate)
    (tmp_path / "empty.db").touch()
    make_tables(database, "sqlite:///x", tmp_path / "empty.db")
    assert database.read_text() == "made"


def test_mlflow_leaves_a_file_that_it_can_open(migrated_database: Path) -> None:
    assert migrated_database.read_bytes()[:15] == b"SQLite format 3"
    assert b"alembic_version" in migrated_database.read_bytes()


def test_one_at_a_time_makes_a_store(tmp_path: Path) -> None:
    order: list[str] = []
    inside, second = threading.Event(), threading.Event()

    def wait_for_it() -> None:
        second.set()
        with initialising(tmp_path / "a.db"):
            order.append("second")

    with initialising(tmp_path / "a.db"):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert second.wait(5)
        inside.wait(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    with initialising(None):
        pass
