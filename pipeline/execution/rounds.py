"""Rounds: all cells of a group are alive at once, and in each round every one of them trains for a turn.

A round is a block of the design: its cells are measured within seconds of each other, in an order shuffled anew and
then in its reverse, while the others stand still. A round in which a cell dies does not count; the cell is restarted
once, and then left out.

Cells are admitted while there is memory for one more of the largest seen. Those that do not fit form a further group
with the baseline, whose rounds connect them with the others.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from pipeline.design.names import (
    HEAD_IMAGES,
    IMAGES_PER_SECOND,
    ROUND_JOULES,
    ROUND_OTHERS,
    ROUND_PLACE,
    ROUND_RATE,
    ROUND_SECONDS,
    TURN_IMAGES,
)
from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Turn, TurnOrder
from pipeline.design.turns import TurnGroup, TurnLength, turn_length
from pipeline.execution.interference import Tally
from pipeline.execution.turn_cell import TurnCall, TurnCell

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
        seed: of the order within the rounds.
    """

    judge: Judge
    least: int
    seed: int


def start_order(runs: Sequence[PlannedRun], drawn: str) -> list[PlannedRun]:
    """The order in which cells are started: another one in each call, for each group and each set of processes.

    A process keeps what its start has given it, its place in memory first of all. Four cells that were the same
    computation, started one after the other in eight calls, differed in the median from -0.2 % (the second one, slower
    in seven of them) to +0.3 % (the third, faster in all eight): started by their numbers of techniques, that would be
    an effect.

    Args:
        runs: the cells.
        drawn: what the order is drawn from.
    """
    order = list(runs)
    random.Random(drawn).shuffle(order)
    return order


class Rounds:
    """The rounds of one group in one call.

    Args:
        call: what all cells of the call share.
        group: its cells.
        rules: how rounds are made.
        before: rates of earlier calls: digest -> round -> images/s.

    Attributes:
        course: what has come of it.
    """

    def __init__(self, call: TurnCall, group: TurnGroup, rules: RoundRules, before: Rates) -> None:
        self._call = call
        self._group = group
        self._rules = rules
        mine = {run.spec.digest for run in group.runs}
        self.course = Course(rates={key: dict(rates) for key, rates in before.items() if key in mine})
        self._largest = (0.0, 0.0)  # memory of a cell, MiB: host's and device's
        self._tally = Tally("rounds")  # of what disturbed them

    def is_enough(self) -> bool:
        """Whether earlier calls have made enough rounds."""
        return not self._wanting()

    def _wanting(self) -> list[PlannedRun]:
        """The cells beside the baseline of which earlier calls have not made enough rounds; the others are done with.

        Cells that were not alive at the same time have no round in common: those that have the same ones are judged
        together, as they were then.
        """
        baseline, *others = self._group.runs
        together: dict[frozenset[int], list[PlannedRun]] = {}
        for run in others:
            together.setdefault(frozenset(self.course.rates.get(run.spec.digest, {})), []).append(run)
        wanting: list[PlannedRun] = []
        for runs in together.values():
            if self._enough([baseline, *runs]):
                done = (run.spec.digest for run in [baseline, *runs])
                self.course.outcomes |= dict.fromkeys(done, "finished")
            else:
                wanting += runs
        return [run for run in others if run in wanting]

    def run(self, slot: Any, deadline: float | None) -> Course:
        """Takes the group to its end.

        Args:
            slot: of the launcher, where the cells stand.
            deadline: `time.monotonic()` after which no round begins; None for none.

        Raises:
            OSError: the journal refuses.
            OutsideError: no process can be started.
        """
        baseline, waiting = self._group.runs[0], self._wanting() or list(self._group.runs[1:])
        while not self._call.stopped():
            standing: list[TurnCell] = []
            try:
                drawn = f"{self._rules.seed}/{self._call.recorder.parent.key}/{self._group.name}/{self.course.rounds}"
                left = self._admit(start_order([baseline, *waiting], drawn), slot, standing)
                while baseline in left and standing and not self._call.stopped():
                    left = self._give_way(left, slot, standing)
                standing.sort(key=lambda cell: cell.run.position)
                self._rounds(standing, self._until(deadline, len(standing) - 1, len(left)))
            finally:
                self._dismiss(standing)
            if not left or len(left) == len(waiting):
                break
            waiting = sorted(left, key=lambda run: run.position)
            self._call.listener.note(f"{self._group.name}: {len(left)} more cells, beside the baseline again")
        if reasons := self._tally.reasons():
            self._call.listener.note(f"{self._group.name}: {'; '.join(reasons)}; rounds spread that over all cells")
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

    def _give_way(self, left: Sequence[PlannedRun], slot: Any, standing: list[TurnCell]) -> list[PlannedRun]:
        """Ends the cell that was started last, that there be room for the baseline; returns those that are left now."""
        baseline = self._group.runs[0]
        last = standing.pop()
        last.kill()
        why = "no room for the baseline beside it; it comes with fewer"
        last.close(End(time=time.time(), outcome="interrupted", error=why))
        return [last.run, *(run for run in left if run is not baseline), *self._admit([baseline], slot, standing)]

    def _admit(self, runs: Sequence[PlannedRun], slot: Any, standing: list[TurnCell]) -> list[PlannedRun]:
        """Has cells stand, one after the other, while there is room; returns those that were left."""
        baseline, left = self._group.runs[0], list[PlannedRun]()
        for number, run in enumerate(runs):
            if self._call.stopped():
                break
            if len(standing) >= LEAST_TOGETHER and not self._has_room(slot):
                left += runs[number:]
                break
            before = self._call.launcher.free_mib(slot)
            cell = TurnCell(self._call, run, slot, self._group.multiple)
            if cell.end is None:
                standing.append(cell)
                self._note_size(before, self._call.launcher.free_mib(slot))
            elif cell.end.outcome == "oom" and [each for each in standing if each.run is not baseline]:
                left.append(run)
                others = f"no room beside {len(standing)} others ({cell.end.error}); it comes with fewer"
                cell.close(End(time=time.time(), outcome="interrupted", error=others))
            else:
                self._close(cell, cell.end)
        return left

    def _note_size(self, before: tuple[float, float], after: tuple[float, float]) -> None:
        """Keeps the largest memory that a cell has taken."""
        host_mib, device_mib = (
            max(was - now, 0.0) if math.isfinite(was) else 0.0 for was, now in zip(before, after, strict=True)
        )
        self._largest = max(self._largest[0], host_mib), max(self._largest[1], device_mib)

    def _has_room(self, slot: Any) -> bool:
        return all(
            free >= ROOM * need for free, need in zip(self._call.launcher.free_mib(slot), self._largest, strict=True)
        )

    # -- rounds --------------------------------------------------------------------------------------------------

    def _rounds(self, standing: list[TurnCell], deadline: float | None) -> None:
        """Makes rounds until they are enough, or time is over."""
        length = self._length(standing)
        if length is None:
            return
        for cell in standing:
            cell.log({TURN_IMAGES: float(length.images), HEAD_IMAGES: float(length.head)})
        while len(standing) > 1 and not self._call.stopped() and (deadline is None or time.monotonic() < deadline):
            self._round(standing, length)
            for cell in [cell for cell in standing if cell.end is not None]:
                cell.revive()
                if cell.end is not None and not self._call.stopped():
                    standing.remove(cell)
                    self._close(cell, cell.end)
            if self._enough([cell.run for cell in standing]):
                return

    def _length(self, standing: Sequence[TurnCell]) -> TurnLength | None:
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

    def _round(self, standing: Sequence[TurnCell], length: TurnLength) -> None:
        """Makes one round; it counts where every cell came to the end of its turn."""
        number = self.course.rounds + 1
        order = list(standing)
        # Two rounds in a row are each other's reverse: no cell is earlier than another on average, nor behind it more
        # often. Drawn anew for each round, one cell of four was first in 169 of 489 rounds and another in 91.
        random.Random(f"{self._rules.seed}/{self._group.name}/{(number + 1) // 2}").shuffle(order)
        if number % 2 == 0:
            order.reverse()
        turns: list[tuple[TurnCell, Turn]] = []
        watch = self._call.watch
        before = watch.look() if watch else None
        for cell in order:
            turn = cell.turn(TurnOrder(number=number, images=length.images, head=length.head))
            if turn is None or self._call.stopped():
                return
            turns.append((cell, turn))
        seen: dict[str, float] = {}
        if watch and before:
            stretch = watch.since(before)
            self._tally.add(stretch)
            seen = {ROUND_OTHERS: stretch.others}
        self._call.recorder.record_round(
            number, [(cell.opened, _values(turn, at) | seen) for at, (cell, turn) in enumerate(turns)]
        )
        for cell, turn in turns:
            self.course.rates.setdefault(cell.run.spec.digest, {})[number] = turn.images / turn.seconds
        self._call.listener.preparing(f"{self._group.name}: round {number}: {self.course.judgement.text}")

    # -- ends ----------------------------------------------------------------------------------------------------

    def _dismiss(self, standing: Sequence[TurnCell]) -> None:
        """Ends cells that are alive, and closes their rows."""
        if self._call.stopped():
            for cell in standing:
                self._close(cell, cell.kill())
            return
        for cell in standing:
            cell.dismiss()
        for cell in standing:
            self._close(cell, cell.finish())

    def _close(self, cell: TurnCell, end: End) -> None:
        """Closes the row of a cell that is dead and stays so."""
        digest = cell.run.spec.digest
        if not self._call.stopped():
            self.course.outcomes[digest] = end.outcome
        rates = self.course.rates.get(digest)
        if rates:
            cell.log({IMAGES_PER_SECOND: median(rates.values())})
            if reasons := self._tally.reasons():
                cell.doubt("; ".join(reasons))
        cell.close(end)


def _values(turn: Turn, place: int) -> dict[str, float]:
    values = {
        ROUND_SECONDS: turn.seconds,
        ROUND_RATE: turn.images / turn.seconds,
        ROUND_PLACE: float(place + 1),
    }
    return values | ({} if turn.joules is None else {ROUND_JOULES: turn.joules})
