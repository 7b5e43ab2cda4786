"""Storages that several processes make, and such as cannot be opened."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.errors import InputError, OutsideError
from pipeline.tuning.storage import existing, open_study


def test_a_storage_survives_processes_that_make_it_together(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.tuning.storage import open_study; f = Path(sys.argv[1]); "
        "s = open_study(f'sqlite:///{f}/o.db', 'x', 'identity', ['maximize'], None, lock=f / 'lock'); s.ask()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(p.wait(100), p.communicate()[1]) for p in processes] == [(0, "")] * 4
    study = existing(f"sqlite:///{tmp_path}/o.db", "x")
    assert study is not None and len(study.trials) == 4
    assert existing(f"sqlite:///{tmp_path}/o.db", "y") is None and existing(f"sqlite:///{tmp_path}/p.db", "x") is None


def test_a_storage_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database")
    with pytest.raises(OutsideError, match="Optuna storage") as caught:
        open_study(f"sqlite:///{broken}", "x", "identity", ["maximize"], None, lock=tmp_path / "lock")
    assert "\n" not in str(caught.value)


def test_a_database_of_another_program_gets_no_tables_of_optuna(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.commit()
    before = path.read_bytes()
    arguments: Any = (f"sqlite:///{path}", "x", "identity", ["maximize"], None)
    for call in (lambda: existing(*arguments[:2]), lambda: open_study(*arguments, lock=tmp_path / "lock")):
        with pytest.raises(InputError, match=r"--storage: .* is not allowed; allowed: a new file, or"):
            call()
    assert path.read_bytes() == before


def test_a_study_of_ours_is_opened_again_and_made_anew(tmp_path: Path) -> None:
    def opened(identity: str, direction: str, *, fresh: bool = False) -> optuna.Study:
        url = f"sqlite:///{tmp_path}/o.db"
        return open_study(url, "x", identity, [direction], None, lock=tmp_path / "lock", fresh=fresh)

    opened("one", "maximize").ask()
    assert len(opened("one", "maximize").trials) == 1
    with pytest.raises(InputError, match="--fresh"):
        opened("two", "maximize")
    anew = opened("two", "minimize", fresh=True)
    assert (anew.trials, anew.user_attrs) == ([], {"ablate.identity": "two"})
