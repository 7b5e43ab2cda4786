"""`ablate speed` with real processes: a planted cost is found, and kills lose nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.ablate import python_path, run_ablate
from tests.support.processes import Workspace, fork_servers, kill, rows_of, until, workers, working_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# imported by every interpreter that finds it; the server that runs are forked from is the one that it is for
CUSTOMIZE = """
import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    import planted_cost
"""
COST = """
import time

from pipeline.training.trainer import EpochUpdates

original = EpochUpdates.__iter__


def planted(self):
    updates = original(self)
    while True:
        began = time.perf_counter()
        images = next(updates, None)
        if images is None:
            return
        if self._run.recipe.pin_memory:
            end = time.perf_counter() + SHARE * (time.perf_counter() - began)
            while time.perf_counter() < end:
                pass
        yield images


EpochUpdates.__iter__ = planted
"""


@pytest.mark.quiet
def test_a_technique_that_costs_ten_percent_is_found(tmp_path: Path, digits_dir: Path) -> None:
    """`pm` does nothing on a CPU but what is planted there: it waits for a tenth of each window."""
    (tmp_path / "planted_cost.py").write_text(COST.replace("SHARE", "0.1"))
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE)
    words = (
        *("speed", "--study", "quickstart", "--device", "cpu", "--models", "test_resnet", "--datasets", "digits"),
        *("--techniques", "pm", "--precision", "0.02", "--max-seconds", "90"),
    )
    where = {"PYTHONPATH": os.pathsep.join([str(tmp_path), python_path()])}
    document = run_ablate(*words, "--json", cwd=tmp_path, data_dir=digits_dir, env=where, timeout=300).json()
    (found,) = [row for row in document["effects"] if row["kind"] == "main"]
    print(found)
    assert found["term"] == "pm" and found["low"] > 1.03 and 1.07 < found["estimate"] < 1.13


def test_a_storm_of_kills_loses_no_round(tmp_path: Path) -> None:
    """Parents, workers and fork servers are killed; every round that was journaled is there once, for all cells."""
    place = Workspace(tmp_path / "work")
    words = ("speed", "--study", place.file.name, "--device", "cpu", "--min-rounds", "300", "--precision", "0.5")
    chance, kills = random.Random(3), Counter[str]()
    process = place.start(*words)
    while sum(kills.values()) < 8:
        time.sleep(chance.uniform(0.5, 5.0))
        if process.poll() is not None:
            process.communicate()
            process = place.start(*words)
            continue
        victim = chance.choice(("parent", "worker", "worker", "fork server"))
        found = [process.pid]
        if victim != "parent":
            found = workers(place.folder) if victim == "worker" else fork_servers(place.folder)
        if not found:
            continue
        if victim == "parent":
            kill(process)
            process = place.start(*words)
        else:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
        kills[victim] += 1
    kill(process)
    until(lambda: not working_in(place.folder), 15, "the end of all processes")
    print(dict(kills))
    last = place.call(*words[:-4], "--min-rounds", "20", "--precision", "0.9", timeout=300)
    assert last.code == 0, last.err
    until(lambda: not working_in(place.folder), 15, "the end of all processes")
    rows = rows_of(place.database, "")
    assert {row.status for row in rows} <= {"FINISHED", "KILLED", "FAILED"}
    assert len([row for row in rows if row.tags["ablate.kind"] == "speed"]) == 1, "all calls are one measurement"
    rounds: dict[str, list[int]] = {}
    for row in rows:
        steps = [step for key, step, _, _ in row.points if key == "round/images_per_second"]
        rounds.setdefault(row.digest, []).extend(steps)
    cells = [sorted(steps) for steps in rounds.values() if steps]
    assert len(cells) == 4 and all(steps == cells[0] for steps in cells), "rounds are whole"
    assert cells[0] == list(range(1, len(cells[0]) + 1)) and len(cells[0]) >= 20, "each is there once"
