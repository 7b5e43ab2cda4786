"""The next run's worker sets up while the present run ends; never do two train at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench.orchestration import NoTraining, Quiet, _plan
from pipeline.design.plan import Plan
from pipeline.design.records import End, Phase, Record
from pipeline.design.spec import RunSpec
from pipeline.execution.controller import Controller
from pipeline.tracking import journal
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder


class Ahead(NoTraining):
    """Notes what is asked of it; a run ends when all its records are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.events: list[tuple[str, str]] = []
        self.grid: Controller | None = None
        self.stop_at = ""

    def prepare(self, spec: RunSpec, after: RunSpec) -> None:
        self.events.append(("prepare", spec.digest))
        self.events.append(("after", after.digest))

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        self.events.append(("launch", spec.digest))
        if self.grid is not None and self.grid.stopped:
            yield End(time=0.0, outcome="interrupted", error="cancelled")
            return
        *records, end = super().launch(spec)
        yield from records
        yield Phase(time=0.0, name="evaluate")
        yield Phase(time=0.0, name="done")
        if self.stop_at == spec.digest and self.grid is not None:
            self.grid.stop()
        self.events.append(("end", spec.digest))
        yield end


def _grid(folder: Path, plan: Plan) -> tuple[Controller, Ahead, Recorder]:
    tracker = MlflowStore(f"sqlite:///{folder}/mlflow.db", "ahead", folder / "artifacts")
    tracker.connect()
    book = Recorder(tracker, folder)
    book.start()
    launcher = Ahead(folder / "work")
    grid = Controller(plan, launcher, book, Quiet(), retries=0, state_dir=folder)
    launcher.grid = grid
    grid.resume("ahead", {"ablate.command": "grid"}, fresh=True)
    return grid, launcher, book


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [entry for path in (folder / "journal").glob("*.journal") for entry, _ in journal.read_entries(path)]


def test_the_next_cell_is_prepared_before_the_end_and_launched_after_it(tmp_path: Path) -> None:
    plan = _plan(12)  # eight cells of the first block, four of the second
    grid, launcher, book = _grid(tmp_path, plan)
    tally = grid.run()
    assert tally.complete
    order = [run.spec.digest for run in plan.runs]
    expected: list[tuple[str, str]] = []
    for place, digest in enumerate(order):
        expected.append(("launch", digest))
        same_block = place + 1 < len(order) and plan.runs[place + 1].block == plan.runs[place].block
        if same_block:
            expected += [("prepare", order[place + 1]), ("after", digest)]
        expected.append(("end", digest))
    assert launcher.events == expected, "not across blocks, before each of which the machine is watched"
    grid.close(tally, grid.results, 0.0)
    assert book.error is None


def test_a_prepared_cell_is_closed_when_the_grid_is_stopped(tmp_path: Path) -> None:
    plan = _plan(8)
    grid, launcher, _ = _grid(tmp_path, plan)
    launcher.stop_at = plan.runs[2].spec.digest
    tally = grid.run()
    assert tally.interrupted
    assert tally.outcomes == {"finished": 3, "interrupted": 5}
    grid.close(tally, grid.results, 0.0)
    entries = _rows(tmp_path)
    opened = [entry["key"] for entry in entries if entry["kind"] == "open" and entry["parent"]]
    closed = {entry["key"]: entry["outcome"] for entry in entries if entry["kind"] == "close"}
    assert len(opened) == 4, "three that ran, one that was prepared"
    assert [closed[key] for key in opened] == ["finished"] * 3 + ["interrupted"]


def test_a_launcher_that_cannot_prepare_works_as_before(tmp_path: Path) -> None:
    plan = replace(_plan(8), runs=_plan(8).runs[:3])
    tracker = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "plain", tmp_path / "artifacts")
    tracker.connect()
    book = Recorder(tracker, tmp_path)
    book.start()
    grid = Controller(plan, NoTraining(tmp_path / "work"), book, Quiet(), retries=0, state_dir=tmp_path)
    grid.resume("plain", {"ablate.command": "grid"}, fresh=True)
    assert grid.run().complete


def test_no_room_for_another_process_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(Ahead, "prepare", full)
    grid, _, _ = _grid(tmp_path, _plan(3))
    assert grid.run().complete
