"""experiments/scale.py, as docs/scale.md calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ablate import ROOT, environment


@pytest.mark.slow
def test_it_measures_a_grid_without_training(tmp_path: Path) -> None:
    words = ["--cells", "3", "--jobs", "2", "--seconds", "0.1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "scale.py"), *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert (measured["cells"], measured["jobs"], measured["records_per_run"]) == (3, 2, 64.0)
    assert measured["journal_bytes_per_run"] > 1000 and measured["sqlite_bytes_per_run"] > 1000
    assert measured["delivered_seconds"] >= measured["wall_seconds"] >= 0.2, "two turns of 0.1 s"
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
