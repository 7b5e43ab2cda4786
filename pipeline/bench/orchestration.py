"""What a grid costs beside its training, by a launcher that trains nothing: controller, journal, claims, MLflow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.bench.scaling import peak_mib
from pipeline.design import study
from pipeline.design.names import TRAIN_LOSS, TRAIN_SECONDS, VAL_ACCURACY
from pipeline.design.plan import Plan, PlannedRun, build_plan
from pipeline.design.records import End, Metrics, Phase, Progress, Record, Tags
from pipeline.design.spec import RunSpec
from pipeline.execution.controller import Controller
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.uri import resolve_uri

EPOCHS = 3
RECORDS_AT_ONCE = 500


class NoTraining:
    """A launcher whose runs end at once, with the records of a short run.

    Args:
        folder: for the runs' work folders.
    """

    jobs = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cancelled = False

    def start(self) -> None:
        """Nothing is needed."""

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        """Nothing can be wrong."""

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        """Yields the records of a run of three epochs."""
        del spec
        yield Phase(time=time.time(), name="setup")
        yield Tags(time=time.time(), values={"env.device": "cpu"})
        for epoch in range(1, EPOCHS + 1):
            yield Metrics(time=time.time(), step=epoch, values={TRAIN_LOSS: 1.0 / epoch, VAL_ACCURACY: 0.5})
        summary = {f"bench/value{number}": float(number) for number in range(25)}
        yield Metrics(time=time.time(), values={TRAIN_SECONDS: 1.0, **summary})
        yield End(time=time.time(), outcome="interrupted" if self._cancelled else "finished")

    def work_dir(self, spec: RunSpec) -> Path:
        """The run's own folder."""
        return self._folder / spec.digest

    def cancel(self) -> None:
        """Interrupts whatever has not ended yet."""
        self._cancelled = True

    def kill(self) -> None:
        """Nothing runs for long."""


class Quiet:
    """A listener that shows nothing and keeps the time of every run's end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def preparing(self, text: str) -> None:
        """Nothing."""

    def begin(self, total: int, done: int, left: Sequence[RunSpec] = (), jobs: int = 1) -> None:
        """Nothing."""

    def started(self, run: PlannedRun) -> None:
        """Nothing."""

    def progress(self, run: PlannedRun, record: Progress | Metrics | Phase) -> None:
        """Nothing."""

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """Notes the time."""
        del run, end, values
        self.ends.append(time.perf_counter())

    def note(self, text: str) -> None:
        """Nothing."""


class Counting:
    """Counts the calls of an MLflow client's methods.

    Args:
        client: the client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return found(*arguments, **options)

        return counted


def measure_orchestration(runs: int, folder: str) -> dict[str, Any]:
    """Runs a grid of `runs` cells without training, on a SQLite store of its own.

    Args:
        runs: cells.
        folder: an empty folder for store and journal.

    Returns:
        `seconds_per_run` (median of the second half, so that it holds for a store that has something in it),
        `mlflow_calls_per_run`, `calls` (MLflow method -> per run), `seconds_per_record` (of the writer, for one metric
        value in a batch of 500), `memory_mib` (peak of the process, MLflow included).
    """
    place = Path(folder)
    store = MlflowStore(resolve_uri(f"sqlite:///{place}/mlflow.db"), "bench", place / "artifacts")
    store.connect()
    counting = Counting(store.connection.client)
    store.connection.client = counting  # type: ignore[assignment]
    launcher = NoTraining(place / "work")
    recorder = Recorder(store, place)
    recorder.start()
    listener = Quiet()
    grid = Controller(_plan(runs), launcher, recorder, listener, retries=0, state_dir=place)
    grid.resume("bench", {}, fresh=True)
    before = Counter(counting.calls)
    outcome = grid.run()
    recorder.outbox.wait(60.0)
    calls = counting.calls - before
    grid.close(outcome, grid.results, 0.0)
    half = listener.ends[runs // 2 :]
    seconds = _writer_seconds(MlflowWriter(store), store.attempts()[0].key)
    return {
        "runs": runs,
        "seconds_per_run": (half[-1] - half[0]) / (len(half) - 1),
        "mlflow_calls_per_run": sum(calls.values()) / runs,
        "calls": {name: count / runs for name, count in sorted(calls.items())},
        "seconds_per_record": seconds,
        "memory_mib": peak_mib(),
    }


def _plan(runs: int) -> Plan:
    base = study.load_study("quickstart")
    single = study.replace(base, models={"test_resnet": {}}, datasets=["digits"], overrides=[], seeds=-(-runs // 8))
    plan = build_plan(single, "cpu", {})
    return replace(plan, runs=plan.runs[:runs])


def _writer_seconds(writer: MlflowWriter, key: str, batches: int = 5) -> float:
    """Seconds of MLflow for one value, when the delivery thread hands over a full batch of journal entries."""
    spent = []
    for batch in range(batches):
        entries = list(_entries(key, batch))
        began = time.perf_counter()
        writer.apply(entries)
        spent.append((time.perf_counter() - began) / len(entries))
    return sorted(spent)[len(spent) // 2]


def _entries(key: str, batch: int) -> Sequence[dict[str, Any]]:
    now = int(time.time() * 1000)
    return [
        {"kind": "metrics", "key": key, "time": now, "step": batch * RECORDS_AT_ONCE + step, "values": {"x": 1.0}}
        for step in range(RECORDS_AT_ONCE)
    ]
