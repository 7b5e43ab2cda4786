"""Rounds: all cells of a group are alive at once, and in each round every one of them trains for a turn.

A round is a block of the design: its cells are measured within seconds of each other, in an order shuffled anew, while
the others stand still. A round in which a cell dies does not count; the cell is restarted once, and then left out.

Cells are admitted while there is memory for one more of the largest seen. Those that do not fit form a further group
with the baseline, whose rounds connect them with the others.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

from pipeline import host, nvml
from pipeline.design.names import (
    HEAD_IMAGES,
    IMAGES_PER_SECOND,
    ROUND_JOULES,
    ROUND_PLACE,
    ROUND_RATE,
    ROUND_SECONDS,
    TURN_IMAGES,
)
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Ready, Record, Turn, TurnOrder
from pipeline.design.turns import TurnGroup, TurnLength, turn_length
from pipeline.execution.cell_queue import LOST_TRIES
from pipeline.execution.launcher import HasCellsStand, StandsStill
from pipeline.execution.listener import Listener
from pipeline.tracking.recorder import OpenRun, Recorder

RESTARTS = 1  # of a cell that dies or hangs
ROOM = 1.2  # times the largest cell's memory that has to be free for the next one
LEAST_TOGETHER = 2  # cells that are tried at once whatever they need: the baseline and another

Rates = Mapping[str, Mapping[int, float]]  # digest -> round -> images/s


@dataclass(frozen=True)
class Judgement:
    """What the rounds up to now say.

    Attributes:
        decided: whether no further one is needed.
        text: how precise the effects are, for people.
    """

    decided: bool
    text: str


class Judge(Protocol):
    """Says whether the rounds of some cells are enough."""

    def __call__(self, runs: Sequence[PlannedRun], rates: Rates, /) -> Judgement:
        """Looks at the rounds that all of the cells have.

        Args:
            runs: the cells.
            rates: of each cell, by its digest.
        """
        ...


@dataclass
class _Cell:
    """A cell that is alive."""

    opened: OpenRun
    worker: StandsStill
    deaths: int = 0
    losses: int = 0
    ready: Ready | None = None
    seconds: float = 0.0  # of the turn before the first round
    end: End | None = None

    @property
    def run(self) -> PlannedRun:
        return self.opened.run


@dataclass
class Course:
    """What came of a group.

    Attributes:
        outcomes: digest -> outcome of each cell that is done with.
        rates: of each cell, by its digest, of this call and those before.
        judgement: the last one.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    rates: dict[str, dict[int, float]] = field(default_factory=dict)
    judgement: Judgement = Judgement(False, "no round yet")

    @property
    def rounds(self) -> int:
        """The last round's number."""
        return max((number for rates in self.rates.values() for number in rates), default=0)


@dataclass(frozen=True)
class RoundRules:
    """How rounds are made.

    Attributes:
        judge: says when they are enough.
        least: rounds of a group, at least.
        timeout: longest time of a set-up or a turn, in s; None for no limit.
        seed: of the order within the rounds.
    """

    judge: Judge
    least: int
    timeout: float | None
    seed: int


class Rounds:
    """The rounds of one group in one call.

    Args:
        plan: what the group is of.
        group: its cells.
        launcher: has them stand.
        recorder: keeps what they tell.
        listener: shows it.
        rules: how rounds are made.
        stopped: whether the call has been ended.
        before: rates of earlier calls: digest -> round -> images/s.
    """

    def __init__(
        self,
        plan: Plan,
        group: TurnGroup,
        launcher: HasCellsStand,
        recorder: Recorder,
        listener: Listener,
        rules: RoundRules,
        stopped: Callable[[], bool],
        before: Rates,
    ) -> None:
        self._plan = plan
        self._group = group
        self._launcher = launcher
        self._recorder = recorder
        self._listener = listener
        self._rules = rules
        self._stopped = stopped
        mine = {run.spec.digest for run in group.runs}
        self.course = Course(rates={key: dict(rates) for key, rates in before.items() if key in mine})
        self._largest = (0.0, 0.0)  # memory of a cell, MiB: host's and device's

    def is_enough(self) -> bool:
        """Whether earlier calls have made enough rounds."""
        if not self._enough(self._group.runs):
            return False
        self.course.outcomes = {run.spec.digest: "finished" for run in self._group.runs}
        return True

    def run(self, slot: str | None, deadline: float | None, tainted: str = "") -> Course:
        """Takes the group to its end.

        Args:
            slot: GPUs as CUDA_VISIBLE_DEVICES takes them; None on the CPU.
            deadline: `time.monotonic()` after which no round begins; None for none.
            tainted: why what is measured is to be doubted; empty when nothing is known against it.

        Raises:
            OSError: the journal refuses.
            OutsideError: no process can be started.
        """
        baseline, *waiting = (replace(run, tainted=tainted) for run in self._group.runs)
        while not self._stopped():
            standing: list[_Cell] = []
            try:
                left = self._admit([baseline, *waiting], slot, standing)
                self._rounds(standing, slot, self._until(deadline, len(standing) - 1, len(left)))
            finally:
                self._dismiss(standing)
            if not left or len(left) == len(waiting):
                break
            waiting = left
            self._listener.note(f"{self._group.name}: {len(left)} more cells, beside the baseline again")
        return self.course

    @staticmethod
    def _until(deadline: float | None, here: int, left: int) -> float | None:
        """When the rounds of so many cells end, that time be left for the others."""
        if deadline is None:
            return None
        now = time.monotonic()
        return now + (deadline - now) * here / max(here + left, 1)

    def _enough(self, runs: Sequence[PlannedRun]) -> bool:
        """Judges the rounds of some cells."""
        rates = {run.spec.digest: self.course.rates.get(run.spec.digest, {}) for run in runs}
        shared = set.intersection(*map(set, rates.values())) if rates else set[int]()
        self.course.judgement = self._rules.judge(runs, rates)
        return len(shared) >= self._rules.least and self.course.judgement.decided

    # -- standing ------------------------------------------------------------------------------------------------

    def _admit(self, runs: Sequence[PlannedRun], slot: str | None, standing: list[_Cell]) -> list[PlannedRun]:
        """Has cells stand, one after the other, while there is room; returns those that were left."""
        left: list[PlannedRun] = []
        for number, run in enumerate(runs):
            if self._stopped():
                break
            if len(standing) >= LEAST_TOGETHER and not self._has_room(slot):
                left += runs[number:]
                break
            before = _free_mib(slot)
            cell = self._set_up(run, slot)
            if cell.end is None:
                used = tuple(
                    max(was - now, 0.0) if math.isfinite(was) else 0.0
                    for was, now in zip(before, _free_mib(slot), strict=True)
                )
                self._largest = (max(self._largest[0], used[0]), max(self._largest[1], used[1]))
                standing.append(cell)
            elif cell.end.outcome == "oom" and len(standing) >= LEAST_TOGETHER:
                left.append(run)
                others = f"no room beside {len(standing)} others ({cell.end.error}); it comes with fewer"
                self._close(cell, End(time=time.time(), outcome="interrupted", error=others))
            else:
                self._lose(cell)
        return left

    def _has_room(self, slot: str | None) -> bool:
        return all(free >= ROOM * need for free, need in zip(_free_mib(slot), self._largest, strict=True))

    def _set_up(self, run: PlannedRun, slot: str | None) -> _Cell:
        """Starts a cell; where it dies it is tried again. Its `end` says that it is dead."""
        opened = self._recorder.open(run, self._plan, self._launcher.work_dir(run.spec))
        self._listener.preparing(f"{run.name}: set-up")
        cell = _Cell(opened, self._launcher.stand(run.spec, slot))
        self._warm_up(cell)
        while self._may_live(cell):
            self._stand_again(cell, slot)
        return cell

    def _may_live(self, cell: _Cell) -> bool:
        """Whether a dead cell is started again: not for want of memory, which it would lack again."""
        if cell.end is None or cell.end.outcome == "oom" or self._stopped():
            return False
        if cell.end.outcome == "interrupted":  # nothing is known against it
            return cell.losses < LOST_TRIES
        return cell.deaths <= RESTARTS

    def _stand_again(self, cell: _Cell, slot: str | None) -> None:
        self._listener.note(f"{cell.run.name}: {cell.end.error if cell.end else ''}; started again")
        cell.end, cell.ready = None, None
        cell.worker = self._launcher.stand(cell.run.spec, slot)
        self._warm_up(cell)

    def _warm_up(self, cell: _Cell) -> None:
        """Sets a cell up, and lets it take a first turn, which does not count."""
        ready = self._heard(cell, Ready)
        if isinstance(ready, Ready):
            cell.ready = ready
            multiple = self._group.multiple
            turn = self._turn(cell, TurnOrder(number=0, images=multiple, head=multiple))
            cell.seconds = turn.seconds if turn is not None else 0.0

    def _heard(self, cell: _Cell, kind: type[Record]) -> Record | None:
        """Reads what a cell tells up to a record of a kind; None where it ended before."""
        last: Record | None = None
        for record in cell.worker.until(kind, self._rules.timeout):
            if isinstance(record, End):
                cell.end = record
                cell.losses += record.outcome == "interrupted"
                cell.deaths += record.outcome != "interrupted"
                return None
            self._recorder.record(cell.opened, record)
            last = record
        return last

    def _turn(self, cell: _Cell, order: TurnOrder) -> Turn | None:
        """Lets a cell train; None where it died."""
        cell.worker.order(order)
        turn = self._heard(cell, Turn)
        return turn if isinstance(turn, Turn) else None

    # -- rounds --------------------------------------------------------------------------------------------------

    def _rounds(self, standing: list[_Cell], slot: str | None, deadline: float | None) -> None:
        """Makes rounds until they are enough, or time is over."""
        length = self._length(standing)
        if length is None:
            return
        for cell in standing:
            values = {TURN_IMAGES: float(length.images), HEAD_IMAGES: float(length.head)}
            self._recorder.record(cell.opened, Metrics(time=time.time(), values=values))
        while len(standing) > 1 and not self._stopped() and (deadline is None or time.monotonic() < deadline):
            self._round(standing, length)
            for cell in [cell for cell in standing if cell.end is not None]:
                while self._may_live(cell):
                    self._stand_again(cell, slot)
                if cell.end is not None and not self._stopped():
                    standing.remove(cell)
                    self._lose(cell)
            if self._enough([cell.run for cell in standing]):
                return

    def _length(self, standing: Sequence[_Cell]) -> TurnLength | None:
        ready = [cell.ready for cell in standing if cell.ready is not None]
        if not ready:
            return None
        return turn_length(
            self._group.multiple,
            seconds=[cell.seconds for cell in standing],
            edge_seconds=max(each.edge_seconds for each in ready),
            ahead_images=max(each.ahead_images for each in ready),
            epoch_images=min(each.epoch_images for each in ready),
        )

    def _round(self, standing: Sequence[_Cell], length: TurnLength) -> None:
        """Makes one round; it counts where every cell came to the end of its turn."""
        number = self.course.rounds + 1
        order = list(standing)
        random.Random(f"{self._rules.seed}/{self._group.name}/{number}").shuffle(order)
        turns: list[tuple[_Cell, Turn]] = []
        for cell in order:
            turn = self._turn(cell, TurnOrder(number=number, images=length.images, head=length.head))
            if turn is None or self._stopped():
                return
            turns.append((cell, turn))
        self._recorder.record_round(number, [(cell.opened, _values(turn, at)) for at, (cell, turn) in enumerate(turns)])
        for cell, turn in turns:
            self.course.rates.setdefault(cell.run.spec.digest, {})[number] = turn.images / turn.seconds
        self._listener.preparing(f"{self._group.name}: round {number}: {self.course.judgement.text}")

    # -- ends ----------------------------------------------------------------------------------------------------

    def _dismiss(self, standing: Iterable[_Cell]) -> None:
        """Ends cells that are alive, and closes their rows."""
        cells = list(standing)
        if self._stopped():
            for cell in cells:
                cell.worker.kill()
                self._close(cell, cell.end or End(time=time.time(), outcome="interrupted", error="cancelled"))
            return
        for cell in cells:
            cell.worker.dismiss()
        for cell in cells:
            if cell.end is None:
                self._heard(cell, End)
            end = cell.end or End(time=time.time(), outcome="failed", error="its worker did not end")
            self.course.outcomes[cell.run.spec.digest] = end.outcome
            self._close(cell, end)

    def _lose(self, cell: _Cell) -> None:
        """Closes the row of a cell that is dead and stays so."""
        end = cell.end or End(time=time.time(), outcome="failed", error="its worker did not end")
        self.course.outcomes[cell.run.spec.digest] = end.outcome
        self._close(cell, end)

    def _close(self, cell: _Cell, end: End) -> None:
        rates = self.course.rates.get(cell.run.spec.digest)
        if rates:
            values = {IMAGES_PER_SECOND: median(rates.values())}
            self._recorder.record(cell.opened, Metrics(time=time.time(), values=values))
        self._recorder.close(cell.opened, end)
        if end.outcome != "finished" and not self._stopped():
            self._listener.note(f"{cell.run.name}: {end.outcome}: {end.error}")


def _values(turn: Turn, place: int) -> dict[str, float]:
    values = {
        ROUND_SECONDS: turn.seconds,
        ROUND_RATE: turn.images / turn.seconds,
        ROUND_PLACE: float(place + 1),
    }
    return values | ({} if turn.joules is None else {ROUND_JOULES: turn.joules})


def _free_mib(slot: str | None) -> tuple[float, float]:
    """Free memory in MiB: the host's, and the least of the slot's GPUs."""
    used = set(slot.split(",")) if slot else set[str]()
    free = [gpu.memory_mib - gpu.used_mib for gpu in nvml.gpus() if gpu.uuid in used]
    return host.available_memory_mib(), min(free, default=float("inf"))
