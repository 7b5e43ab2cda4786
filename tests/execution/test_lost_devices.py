"""A GPU that disappears: its run is nobody's failure and is made elsewhere; without any left the grid ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import nvml
from pipeline.commands.display import PlainDisplay
from pipeline.design import study
from pipeline.design.plan import Plan, build_plan
from pipeline.design.records import End, Metrics, Record
from pipeline.design.spec import RunSpec
from pipeline.errors import OutsideError
from pipeline.execution.controller import Controller
from pipeline.execution.listener import GridOutcome
from pipeline.execution.local import launcher as local
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from tests.support.processes import STUDY, rows_of


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What NVML lists."""
    listed = ["GPU-a", "GPU-b"]
    monkeypatch.setattr(nvml, "gpus", lambda: [SimpleNamespace(uuid=uuid) for uuid in listed])
    for name in local.process_environment():
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return listed


def test_a_lost_gpu_takes_its_place_along(gpus: list[str], tmp_path: Path) -> None:
    """A real worker that finds no CUDA device fails; whether its GPU is still listed makes the difference."""
    launcher = LocalLauncher("cuda", gpus=list(gpus), jobs=2, data_dir=tmp_path, work_dir=tmp_path / "work")
    ends = []
    for lost in ([], ["GPU-b"], ["GPU-a"]):  # places are taken in turn: a stays, b and a go
        records = launcher.launch(RunSpec(model="test_resnet", dataset="digits", device="cuda"))
        first = next(records)
        for uuid in lost:
            gpus.remove(uuid)
        ends.append([first, *records][-1])
    assert all(isinstance(end, End) for end in ends)
    assert [end.outcome for end in ends] == ["failed", "interrupted", "interrupted"]
    assert ends[1].error.startswith("GPU GPU-b disappeared: ")
    assert launcher.jobs == 0


class Losing:
    """A launcher of which the first `lost` runs lose their place."""

    def __init__(self, folder: Path, jobs: int, lost: int) -> None:
        self.jobs = jobs
        self._folder = folder
        self._lost = lost
        self._lock = threading.Lock()

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        del spec
        with self._lock:
            lost, self._lost = self._lost > 0, self._lost - 1
            self.jobs -= lost
        error = "GPU GPU-a disappeared: CUDA error" if lost else None
        yield End(time=time.time(), outcome="interrupted" if lost else "finished", error=error)

    def work_dir(self, spec: RunSpec) -> Path:
        return self._folder / spec.digest

    def cancel(self) -> None:
        pass


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    file = tmp_path / "small.yaml"
    file.write_text(STUDY)
    return build_plan(study.load_study(str(file)), "cpu")


def outcome_of(plan: Plan, launcher: Any, folder: Path) -> GridOutcome:
    tracker = MlflowStore(f"sqlite:///{folder}/mlflow.db", "small", folder / "artifacts")
    tracker.connect()
    with (folder / "shown.txt").open("w") as shown:
        book = Recorder(tracker, folder)
        grid = Controller(plan, launcher, book, PlainDisplay(shown), retries=0, state_dir=folder)
        book.start()
        grid.resume("small", {"ablate.study": "small"}, fresh=False)
        tally = grid.run()
        grid.close(tally, list, 1.0)
    return tally


def test_the_cell_of_a_lost_device_is_run_on_another(plan: Plan, tmp_path: Path) -> None:
    tally = outcome_of(plan, Losing(tmp_path / "work", jobs=2, lost=1), tmp_path)
    assert (tally.outcomes, tally.broken) == ({"finished": 4}, None)
    rows = rows_of(tmp_path / "mlflow.db")
    assert sorted(row.status for row in rows) == ["FINISHED"] * 4 + ["KILLED"]
    (killed,) = [row for row in rows if row.status == "KILLED"]
    assert killed.outcome == "interrupted" and "disappeared" in killed.tags["ablate.error"]
    assert killed.digest in {row.digest for row in rows if row.status == "FINISHED"}


class LosingTwice(Losing):
    """Two devices disappear at once; the second run is heard of when the grid has given up already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, jobs=2, lost=2)
        self._both = threading.Barrier(2)
        self._order = iter((False, True))
        self._cancelled = threading.Event()

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        with self._lock:
            last = next(self._order)
        records = list(super().launch(spec))
        self._both.wait(30)
        if last:
            assert self._cancelled.wait(30)
        yield from records

    def cancel(self) -> None:
        self._cancelled.set()


def test_two_devices_lost_at_once_leave_all_cells_pending(plan: Plan, tmp_path: Path) -> None:
    tally = outcome_of(plan, LosingTwice(tmp_path / "work"), tmp_path)
    assert tally.broken == "GPU GPU-a disappeared: CUDA error"
    assert tally.outcomes == {"pending": 4}, "nobody interrupted anything"
    assert "RUNNING" not in {row.status for row in rows_of(tmp_path / "mlflow.db", "")}


def test_a_grid_without_any_device_left_ends_and_says_so(plan: Plan, tmp_path: Path) -> None:
    tally = outcome_of(plan, Losing(tmp_path / "work", jobs=2, lost=2), tmp_path)
    assert tally.broken == "GPU GPU-a disappeared: CUDA error"
    assert tally.outcomes == {"pending": 4}
    assert "RUNNING" not in {row.status for row in rows_of(tmp_path / "mlflow.db", "")}


class Breaking(Losing):
    """A launcher that cannot go on in the middle of a run."""

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        yield Metrics(time=time.time(), step=1, values={"train/loss": 1.0})
        raise OutsideError(f"the cluster is gone while {spec.model} trains")


def test_a_launcher_that_breaks_in_mid_run_leaves_no_row_open(plan: Plan, tmp_path: Path) -> None:
    tally = outcome_of(plan, Breaking(tmp_path / "work", jobs=1, lost=0), tmp_path)
    assert tally.broken == "the cluster is gone while test_resnet trains"
    rows = rows_of(tmp_path / "mlflow.db")
    assert [(row.status, row.outcome) for row in rows] == [("KILLED", "interrupted")]
    assert rows[0].tags["ablate.error"] == "its controller could not go on"
