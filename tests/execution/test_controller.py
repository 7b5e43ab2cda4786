"""The controller: each cell once, on what is left of the machine, the next one set up while the present one ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis.frame import tidy
from pipeline.bench.orchestration import NoTraining, Quiet, _plan
from pipeline.commands.display import PlainDisplay
from pipeline.design import study
from pipeline.design.options import GridOptions
from pipeline.design.plan import Plan, build_plan
from pipeline.design.records import End, Metrics, Phase, Record, Tags
from pipeline.design.selection import select_plan
from pipeline.design.spec import RunSpec
from pipeline.errors import OutsideError
from pipeline.execution.controller import Controller
from pipeline.execution.interference import MachineWatch
from pipeline.execution.listener import GridOutcome
from pipeline.tracking import journal
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.status import status_of
from pipeline.tracking.study_data import read_study_data
from tests.support.launchers import ListenerLog
from tests.support.processes import STUDY, rows_of

StoreIn = Callable[[Path, str], MlflowStore]


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

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
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


def _grid(store_in: StoreIn, folder: Path, plan: Plan) -> tuple[Controller, Ahead, Recorder]:
    tracker = store_in(folder, "ahead")
    recorder = Recorder(tracker, folder)
    recorder.start()
    launcher = Ahead(folder / "work")
    grid = Controller(plan, launcher, recorder, Quiet(), retries=0, state_dir=folder)
    launcher.grid = grid
    grid.resume("ahead", {"ablate.command": "grid"}, fresh=True)
    return grid, launcher, recorder


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [entry for path in (folder / "journal").glob("*.journal") for entry, _ in journal.read_entries(path)]


def test_the_next_cell_is_prepared_before_the_end_and_launched_after_it(store_in: StoreIn, tmp_path: Path) -> None:
    plan = _plan(12)  # eight cells of the first block, four of the second
    grid, launcher, recorder = _grid(store_in, tmp_path, plan)
    outcome = grid.run()
    assert outcome.complete
    order = [run.spec.digest for run in plan.runs]
    expected: list[tuple[str, str]] = []
    for place, digest in enumerate(order):
        expected.append(("launch", digest))
        if place + 1 < len(order):
            expected += [("prepare", order[place + 1]), ("after", digest)]
        expected.append(("end", digest))
    assert launcher.events == expected
    grid.close(outcome, grid.results, 0.0)
    assert recorder.error is None


def test_a_prepared_cell_is_closed_when_the_grid_is_stopped(store_in: StoreIn, tmp_path: Path) -> None:
    plan = _plan(8)
    grid, launcher, _ = _grid(store_in, tmp_path, plan)
    launcher.stop_at = plan.runs[2].spec.digest
    outcome = grid.run()
    assert outcome.interrupted
    assert outcome.outcomes == {"finished": 3, "interrupted": 1, "pending": 4}, "four never began"
    grid.close(outcome, grid.results, 0.0)
    entries = _rows(tmp_path)
    opened = [entry["key"] for entry in entries if entry["kind"] == "open" and entry["parent"]]
    closed = {entry["key"]: entry["outcome"] for entry in entries if entry["kind"] == "close"}
    assert len(opened) == 4, "three that ran, one that was prepared"
    assert [closed[key] for key in opened] == ["finished"] * 3 + ["interrupted"]


def test_a_launcher_that_cannot_prepare_works_as_before(store_in: StoreIn, tmp_path: Path) -> None:
    plan = replace(_plan(8), runs=_plan(8).runs[:3])
    tracker = store_in(tmp_path, "plain")
    recorder = Recorder(tracker, tmp_path)
    recorder.start()
    grid = Controller(plan, NoTraining(tmp_path / "work"), recorder, Quiet(), retries=0, state_dir=tmp_path)
    grid.resume("plain", {"ablate.command": "grid"}, fresh=True)
    assert grid.run().complete


def test_no_room_for_another_process_is_no_failure(
    store_in: StoreIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(Ahead, "prepare", full)
    grid, _, _ = _grid(store_in, tmp_path, _plan(3))
    assert grid.run().complete


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


def outcome_of(store_in: StoreIn, plan: Plan, launcher: Any, folder: Path) -> GridOutcome:
    tracker = store_in(folder, "small")
    with (folder / "shown.txt").open("w") as shown:
        recorder = Recorder(tracker, folder)
        grid = Controller(plan, launcher, recorder, PlainDisplay(shown), retries=0, state_dir=folder)
        recorder.start()
        grid.resume("small", {"ablate.study": "small"}, fresh=False)
        outcome = grid.run()
        grid.close(outcome, list, 1.0)
    return outcome


def test_the_cell_of_a_lost_device_is_run_on_another(store_in: StoreIn, plan: Plan, tmp_path: Path) -> None:
    outcome = outcome_of(store_in, plan, Losing(tmp_path / "work", jobs=2, lost=1), tmp_path)
    assert (outcome.outcomes, outcome.broken) == ({"finished": 4}, None)
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


def test_two_devices_lost_at_once_leave_all_cells_pending(store_in: StoreIn, plan: Plan, tmp_path: Path) -> None:
    outcome = outcome_of(store_in, plan, LosingTwice(tmp_path / "work"), tmp_path)
    assert outcome.broken == "GPU GPU-a disappeared: CUDA error"
    assert outcome.outcomes == {"pending": 4}, "nobody interrupted anything"
    assert "RUNNING" not in {row.status for row in rows_of(tmp_path / "mlflow.db", "")}


def test_a_grid_without_any_device_left_ends_and_says_so(store_in: StoreIn, plan: Plan, tmp_path: Path) -> None:
    outcome = outcome_of(store_in, plan, Losing(tmp_path / "work", jobs=2, lost=2), tmp_path)
    assert outcome.broken == "GPU GPU-a disappeared: CUDA error"
    assert outcome.outcomes == {"pending": 4}
    assert "RUNNING" not in {row.status for row in rows_of(tmp_path / "mlflow.db", "")}


class Breaking(Losing):
    """A launcher that cannot go on in the middle of a run."""

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        yield Metrics(time=time.time(), step=1, values={"train/loss": 1.0})
        raise OutsideError(f"the cluster is gone while {spec.model} trains")


def test_a_launcher_that_breaks_in_mid_run_leaves_no_row_open(store_in: StoreIn, plan: Plan, tmp_path: Path) -> None:
    outcome = outcome_of(store_in, plan, Breaking(tmp_path / "work", jobs=1, lost=0), tmp_path)
    assert outcome.broken == "the cluster is gone while test_resnet trains"
    rows = rows_of(tmp_path / "mlflow.db")
    assert [(row.status, row.outcome) for row in rows] == [("KILLED", "interrupted")]
    assert rows[0].tags["ablate.error"] == "its controller could not go on"


class Disturbed(MachineWatch):
    """Every run but the first of each block is disturbed."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.runs = 0

    def watched(self, records: Generator[Record, None, None]) -> Generator[Record, None, None]:
        self.runs += 1
        if self.runs > 1:
            yield Tags(time=0.0, values={"ablate.tainted": f"busy in run {self.runs}"})
        yield from records


def test_a_disturbed_run_has_a_tag_and_the_first_of_a_block_is_told(store_in: StoreIn, tmp_path: Path) -> None:
    recorder = Recorder(store_in(tmp_path, "watched"), tmp_path)
    recorder.start()
    listener, watch = ListenerLog(), Disturbed()
    plan = _plan(12)  # eight cells of the first block, four of the second
    grid = Controller(
        plan, NoTraining(tmp_path / "work"), recorder, listener, retries=0, state_dir=tmp_path, watch=watch
    )
    grid.resume("watched", {"ablate.command": "grid"}, fresh=True)
    assert grid.run().complete
    told = [line for line in listener.notes if "tainted" in line]
    names = [run.name for run in plan.runs]
    assert told == [f"{names[1]} is tainted: busy in run 2", f"{names[8]} is tainted: busy in run 9"]
    tags = [entry["values"] for entry in _rows(tmp_path) if entry["kind"] == "tags"]
    assert sum("ablate.tainted" in each for each in tags) == 11


class Calls:
    """Calls of `ablate grid` on one store, whose runs take no time."""

    def __init__(self, store: MlflowStore, folder: Path) -> None:
        self.store = store
        self.folder = folder

    def run(self, plan: Plan, watch: MachineWatch | None = None, **settings: Any) -> int:
        """One call; returns how many runs it made."""
        recorder = Recorder(self.store, self.folder)
        recorder.start()
        listener = Quiet()
        grid = Controller(
            plan,
            NoTraining(self.folder / "work"),
            recorder,
            listener,
            retries=0,
            state_dir=self.folder,
            watch=watch,
        )
        tags = {"ablate.study": plan.study.name, "ablate.techniques": ",".join(plan.study.techniques)}
        grid.resume(plan.study.name, tags, **{"fresh": False, **settings})
        outcome = grid.run()
        assert outcome.complete and grid.nothing_to_do is not bool(listener.ends)
        grid.close(outcome, grid.results, 0.0)
        assert {result.outcome for result in grid.results()} == {"finished"}
        return len(listener.ends)

    def status(self, study: str = "quickstart") -> tuple[int, int]:
        """(cells, finished) of `ablate status`."""
        document = status_of(self.store, self.folder, study)
        assert document["study"] == study
        return document["cells"], document["finished"]

    def reported(self, study: str = "quickstart") -> tuple[set[str], tuple[str, ...], set[str]]:
        """Digests, techniques and models that a report has."""
        data, _ = read_study_data(self.store, study, curves=False)
        return set(data.runs["tags.ablate.digest"]), data.techniques, set(tidy(data).runs["model"])


@pytest.fixture
def calls(store_in: StoreIn, tmp_path: Path) -> Calls:
    return Calls(store_in(tmp_path, "shared"), tmp_path)


def chosen(**options: Any) -> Plan:
    flags = {"models": "test_resnet", "datasets": "digits", "techniques": "pm", "study": "quickstart"}
    return select_plan(GridOptions(**{**flags, **options}), "cpu").plan


def digests(plan: Plan) -> set[str]:
    return {run.spec.digest for run in plan.runs}


@pytest.mark.parametrize(
    "other",
    [{"settings": ("image_size=32",)}, {"techniques": "ga"}, {"techniques": "pm,ga"}, {"levels": ("ga=8",)}],
    ids=lambda other: "-".join(other),
)
def test_two_questions_of_one_study_share_nothing(calls: Calls, other: dict[str, Any]) -> None:
    first, second = chosen(), chosen(**other)
    assert calls.run(first) == 2
    assert calls.run(second) == len(second.runs), "a cell that both have is measured for each"
    assert calls.status() == (len(second.runs),) * 2
    assert calls.reported() == (digests(second), tuple(second.study.techniques), {"test_resnet"})
    assert calls.run(second, fresh=True) == len(second.runs)
    assert calls.run(first) == 0, "whatever has been done to the other"
    assert calls.status() == (2, 2)
    assert calls.reported() == (digests(first), ("pm",), {"test_resnet"}), "asked for last"


def test_two_studies_in_one_experiment_share_nothing(calls: Calls) -> None:
    first, second = chosen(name="mine"), chosen(name="yours", models="test_resnet,test_vit")
    assert (calls.run(first), calls.run(second)) == (2, 4)
    assert calls.status("mine") == (2, 2) and calls.status("yours") == (4, 4)
    assert calls.reported("mine")[0] == digests(first) and calls.reported("yours")[0] == digests(second)
    assert calls.run(first, fresh=True) == 2 and calls.run(second) == 0


def test_a_part_of_a_study_is_a_part_of_it(calls: Calls) -> None:
    part, whole = chosen(), chosen(models="test_resnet,test_vit", seeds=2)
    assert calls.run(part) == 2
    assert calls.run(whole) == 6, "what its part has measured is not measured again"
    assert calls.run(part) == 0
    assert calls.status() == (8, 8), "the cells of other models, and blocks that have begun, are its cells still"
    assert calls.reported()[0] == digests(whole)


def test_a_single_run_is_made_once(calls: Calls) -> None:
    one, other = chosen(techniques="none"), chosen(techniques="none", settings=("epochs=5",))
    assert [calls.run(plan, alone=True) for plan in (one, one, other, other, one)] == [1, 0, 1, 0, 0]
    assert calls.run(one, alone=True, fresh=True) == 1


def test_what_disturbed_one_question_is_measured_again_in_it_alone(calls: Calls) -> None:
    first, second = chosen(), chosen(techniques="ga")
    watch = Disturbed()
    watch.runs = 1  # so that the first run is disturbed, too
    assert calls.run(first, watch=watch) == 2 and calls.run(second) == 2
    assert calls.run(second, rerun_tainted=True) == 0
    assert calls.run(first, rerun_tainted=True) == 2 and calls.run(first) == 0
    assert calls.status() == (2, 2)
