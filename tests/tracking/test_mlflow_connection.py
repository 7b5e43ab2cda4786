"""Opening a store: its tables are made while its library is imported, and only once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import mlflow_database
from pipeline.tracking.mlflow_connection import set_environment
from pipeline.tracking.mlflow_store import MlflowStore


def _store(folder: Path) -> MlflowStore:
    return MlflowStore(f"sqlite:///{folder}/store/mlflow.db", "study", folder / "artifacts")


def test_where_no_home_is_known_mlflow_gets_a_folder_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "kept")
    set_environment()
    assert os.environ["HOME"] == "kept"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # a user without an entry in the password database
    with pytest.raises(RuntimeError):
        Path.home()
    set_environment()
    assert Path.home() == tmp_path / "mlruns"


def test_tables_are_made_once_and_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_database: Path
) -> None:
    made: list[Path] = []

    def counted(database: Path, _uri: str) -> None:
        made.append(database)
        shutil.copyfile(migrated_database, database)

    monkeypatch.setattr(mlflow_database, "migrate", counted)
    found = _store(tmp_path)
    found.load_library()
    assert len(made) == 1 and not list(tmp_path.iterdir()), "bad input still leaves no store behind"
    assert made[0].is_file()
    found.connect()
    assert not made[0].parent.exists(), "a process that is killed later would leave it behind"
    assert len(made) == 1 and found.attempts() == []
    assert sorted(path.name for path in (tmp_path / "store").iterdir() if "init" not in path.name)[0] == "mlflow.db"
    again = _store(tmp_path)
    again.load_library()
    again.connect()
    assert len(made) == 1, "a store that is there is left as it is"


def test_without_room_for_them_tables_are_made_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_database: Path
) -> None:
    def no_room_aside(database: Path, _uri: str) -> None:
        if "ablate-tables-" in str(database):
            raise OSError("no space left on device")
        shutil.copyfile(migrated_database, database)

    monkeypatch.setattr(mlflow_database, "migrate", no_room_aside)
    found = _store(tmp_path)
    found.load_library()
    found.connect()
    assert found.attempts() == []


def test_a_connection_without_the_head_start_works_too(tmp_path: Path) -> None:
    found: Any = _store(tmp_path)
    found.connect()
    assert found.attempts() == []
