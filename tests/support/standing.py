"""Cells that take turns without processes: what they do is written in the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from pipeline.design.names import TAINTED_TAG
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Outcome, Phase, Ready, Record, Tags, Turn, TurnOrder
from pipeline.design.spec import RunSpec
from pipeline.tracking.recorder import OpenRun


@dataclass
class Life:
    """What one process of a cell does.

    Attributes:
        seconds: that it takes for an image.
        dies_in: turn in which it ends by itself, counted from its start (0 is its set-up); None for never.
        how: the outcome then.
    """

    seconds: float = 1e-4
    dies_in: int | None = None
    how: Outcome = "failed"


class FakeStanding:
    """A worker that stands."""

    def __init__(self, life: Life, taken: Callable[[TurnOrder], None]) -> None:
        self.life = life
        self.killed = False
        self._taken = taken
        self._turns = 0
        self._orders: list[TurnOrder | None] = []

    def until(self, kind: type[Record], seconds: float | None) -> Generator[Record, None, None]:
        del seconds
        for record in self._told(kind):
            yield record
            if isinstance(record, (kind, End)):
                return

    def _told(self, kind: type[Record]) -> Iterator[Record]:
        now = time.time()
        if self.life.dies_in == self._turns:
            yield End(time=now, outcome=self.life.how, error=f"it {self.life.how}")
        if kind is Ready:
            yield Phase(time=now, name="setup")
            yield Ready(time=now, epoch_images=1000, ahead_images=0, edge_seconds=0.0)
            return
        order = self._orders.pop(0)
        if order is None:
            yield Metrics(time=now, values={"updates/count": float(self._turns)})
            yield End(time=now, outcome="finished")
            return
        self._turns += 1
        if self.life.dies_in == self._turns:
            yield End(time=now, outcome=self.life.how, error=f"it {self.life.how}")
            return
        self._taken(order)
        took = self.life.seconds * order.images
        yield Turn(time=now, number=order.number, seconds=took, images=order.images, updates=1)

    def order(self, turn: TurnOrder) -> None:
        self._orders.append(turn)

    def dismiss(self) -> None:
        self._orders.append(None)

    def kill(self) -> None:
        self.killed = True


class FakeStandingLauncher:
    """Has cells stand that live as the test says.

    Args:
        folder: for the cells' work folders.
        lives: label of a cell -> its processes' lives, one after the other; the last one is repeated.

    Attributes:
        turns: (label of the cell, its order) of all turns, in their order.
        stood: every worker, by label.
        free: memory for further ones, MiB: the host's, and the GPU's.
    """

    def __init__(self, folder: Path, lives: Mapping[str, Sequence[Life]] | None = None) -> None:
        self._folder = folder
        self._lives = {label: list(given) for label, given in (lives or {}).items()}
        self.turns: list[tuple[str, TurnOrder]] = []
        self.stood: list[tuple[str, FakeStanding]] = []
        self.free: Callable[[], tuple[float, float]] = lambda: (float("inf"), float("inf"))

    def work_dir(self, spec: RunSpec) -> Path:
        return self._folder / spec.digest

    @contextmanager
    def slot(self, _spec: RunSpec) -> Iterator[str | None]:
        yield None

    def free_mib(self, _slot: str | None) -> tuple[float, float]:
        return self.free()

    def stand(self, spec: RunSpec, slot: str | None) -> FakeStanding:
        assert slot is None
        lives = self._lives.get(spec.label, [Life()])
        life = lives.pop(0) if len(lives) > 1 else lives[0]
        worker = FakeStanding(life, lambda order: self.turns.append((spec.label, order)))
        self.stood.append((spec.label, worker))
        return worker


@dataclass
class RoundLog:
    """A recorder that keeps what it is told.

    Attributes:
        rounds: (number, label -> values) of each round.
        closed: (label, how it ended) of each row.
        opened: labels of the rows.
        runs: what they are of.
        doubts: label -> why it is to be doubted.
    """

    rounds: list[tuple[int, dict[str, Mapping[str, float]]]] = field(default_factory=list)
    closed: list[tuple[str, End]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    runs: list[PlannedRun] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)
    parent: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(key="parent"))

    def open(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun:
        assert plan.study.name
        self.opened.append(run.spec.label)
        self.runs.append(run)
        return OpenRun(run.spec.label, run, work_dir)

    def record(self, opened: OpenRun, record: Record) -> None:
        if isinstance(record, Metrics):
            opened.values.update(record.values)
        if isinstance(record, Tags) and TAINTED_TAG in record.values:
            self.doubts[opened.key] = record.values[TAINTED_TAG]

    def record_round(self, number: int, values: Sequence[tuple[OpenRun, Mapping[str, float]]]) -> None:
        self.rounds.append((number, {opened.key: of_cell for opened, of_cell in values}))

    def close(self, opened: OpenRun, end: End) -> None:
        self.closed.append((opened.key, end))
