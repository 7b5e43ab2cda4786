"""Storages that several processes make, and such as cannot be opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import OutsideError
from pipeline.tuning.storage import existing, open_study


def test_a_storage_survives_processes_that_make_it_together(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.tuning.storage import open_study; f = Path(sys.argv[1]); "
        "s = open_study(f'sqlite:///{f}/o.db', 'x', ['maximize'], None, lock=f / 'lock'); s.ask()"
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
        open_study(f"sqlite:///{broken}", "x", ["maximize"], None, lock=tmp_path / "lock")
    assert "\n" not in str(caught.value)
