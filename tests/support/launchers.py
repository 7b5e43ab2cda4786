"""A launcher whose runs do what the test says, and a listener that keeps what it hears."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Metrics, Outcome, Phase, Progress, Record
from pipeline.design.spec import RunSpec
from pipeline.errors import not_allowed


class FakeLauncher:
    """A launcher without processes, that keeps its contract.

    Args:
        folder: for the runs' work folders.
        jobs: runs at once.
        outcomes: seed of a run -> its outcome; others finish.
        lasting: seeds of runs that go on until they are ended.
        refused: seeds of runs that the preflight refuses.

    Attributes:
        calls: names of the methods that were called, in order, `launch` and `work_dir` left out.
        launched: runs in the order of their launch.
        most: the most runs that went on at once.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int = 1,
        *,
        outcomes: dict[int, Outcome] | None = None,
        lasting: Sequence[int] = (),
        refused: Sequence[int] = (),
    ) -> None:
        self.jobs = jobs
        self.calls: list[str] = []
        self.launched: list[RunSpec] = []
        self.most = 0
        self._folder = folder
        self._outcomes = outcomes or {}
        self._lasting = set(lasting)
        self._refused = set(refused)
        self._running = 0
        self._killed = False
        self._slots = threading.Semaphore(jobs)
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @property
    def running(self) -> int:
        """Runs that go on."""
        return 0 if self._killed else self._running

    def start(self) -> None:
        self.calls.append("start")

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        self.calls.append("preflight")
        note(f"checking {len(specs)} runs")
        for spec in specs:
            if spec.seed in self._refused:
                raise not_allowed("seed", spec.seed, "another one")

    def work_dir(self, spec: RunSpec) -> Path:
        return self._folder / spec.digest

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        with self._slots:
            with self._lock:
                self.launched.append(spec)
                self._running += 1
                self.most = max(self.most, self._running)
            try:
                yield Phase(time=time.time(), name="setup")
                if spec.seed in self._lasting:
                    self._ended.wait(60)
                outcome = self._outcomes.get(spec.seed, "finished")
                if self._ended.is_set():
                    outcome = "interrupted"
                yield Metrics(time=time.time(), values={"time/train_seconds": 1.0 + spec.seed})
                yield End(time=time.time(), outcome=outcome, error=None if outcome == "finished" else f"it {outcome}")
            finally:
                with self._lock:
                    self._running -= 1

    def cancel(self) -> None:
        self.calls.append("cancel")
        self._ended.set()

    def kill(self) -> None:
        self.calls.append("kill")
        self._ended.set()
        self._killed = True


class ListenerLog:
    """A listener that keeps what it hears.

    Attributes:
        notes: lines for the user.
        begun: total and done, for each begin.
        ends: outcomes in the order of the ends.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun: list[tuple[int, int]] = []
        self.ends: list[Outcome] = []

    def preparing(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, total: int, done: int, left: Sequence[RunSpec] = (), jobs: int = 1) -> None:
        del left, jobs
        self.begun.append((total, done))

    def started(self, run: PlannedRun) -> None:
        pass

    def progress(self, run: PlannedRun, record: Progress | Metrics | Phase) -> None:
        pass

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        del run, values
        self.ends.append(end.outcome)

    def note(self, text: str) -> None:
        self.notes.append(text)
