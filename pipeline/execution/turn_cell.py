"""One cell that takes turns, as its rounds see it: a row in the store, and a worker that may be started again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.design.names import TAINTED_TAG
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Ready, Record, Tags, Turn, TurnOrder
from pipeline.execution.cell_queue import LOST_TRIES
from pipeline.execution.interference import MachineWatch
from pipeline.execution.launcher import HasCellsStand
from pipeline.execution.listener import Listener
from pipeline.tracking.recorder import Recorder

RESTARTS = 1  # of a cell that dies or hangs


@dataclass(frozen=True)
class TurnCall:
    """What all cells of a call share.

    Attributes:
        plan: what they are of.
        launcher: has them stand.
        recorder: keeps what they tell.
        listener: shows it.
        timeout: longest time of a set-up or a turn, in s; None for no limit.
        stopped: whether the call has been ended.
        watch: looks for reasons to doubt a round; None where the machine that makes it looks.
    """

    plan: Plan
    launcher: HasCellsStand
    recorder: Recorder
    listener: Listener
    timeout: float | None
    stopped: Callable[[], bool]
    watch: MachineWatch | None = None


class TurnCell:
    """A cell with its row and its worker.

    Args:
        call: what it is part of.
        run: what it trains.
        slot: of the launcher, where it stands.
        multiple: images of its first turn, which does not count.

    Attributes:
        run: see above.
        ready: what it said when it was set up; None while it is not.
        seconds: duration of its first turn, s.
        end: its last record; None while it is alive.

    Raises:
        OSError: the journal refuses.
        OutsideError: no process can be started.
    """

    def __init__(self, call: TurnCall, run: PlannedRun, slot: Any, multiple: int) -> None:
        self.run = run
        self.ready: Ready | None = None
        self.seconds = 0.0
        self.end: End | None = None
        self._call = call
        self._slot = slot
        self._multiple = multiple
        self._deaths = 0
        self._losses = 0
        self.opened = call.recorder.open(run, call.plan, call.launcher.work_dir(run.spec))
        call.listener.preparing(f"{run.name}: set-up")
        self._worker = call.launcher.stand(run.spec, slot)
        self._warm_up()
        self.revive()

    def revive(self) -> None:
        """Starts it again, as often as it may, where it is dead.

        Raises:
            OutsideError: no process can be started.
        """
        while self.end is not None and self._may_live(self.end):
            self._call.listener.note(f"{self.run.name}: {self.end.error}; started again")
            self.end = self.ready = None
            self._worker = self._call.launcher.stand(self.run.spec, self._slot)
            self._warm_up()

    def _may_live(self, end: End) -> bool:
        """Whether it is started again: not for want of memory, which it would lack again."""
        if end.outcome == "oom" or self._call.stopped():
            return False
        if end.outcome == "interrupted":  # nothing is known against it
            return self._losses < LOST_TRIES
        return self._deaths <= RESTARTS

    def _warm_up(self) -> None:
        ready = self._heard(Ready)
        if isinstance(ready, Ready):
            self.ready = ready
            turn = self.turn(TurnOrder(number=0, images=self._multiple, head=self._multiple))
            self.seconds = turn.seconds if turn is not None else 0.0

    def turn(self, order: TurnOrder) -> Turn | None:
        """Lets it train for a turn; None where it died.

        Raises:
            OSError: the journal refuses.
        """
        self._worker.order(order)
        turn = self._heard(Turn)
        return turn if isinstance(turn, Turn) else None

    def _heard(self, kind: type[Record]) -> Record | None:
        """Reads what it tells up to a record of a kind; None where it ended before."""
        last: Record | None = None
        for record in self._worker.until(kind, self._call.timeout):
            if isinstance(record, End):
                self.end = record
                self._losses += record.outcome == "interrupted"
                self._deaths += record.outcome != "interrupted"
                return None
            self._call.recorder.record(self.opened, record)
            last = record
        return last

    def log(self, values: Mapping[str, float]) -> None:
        """Records metrics of the whole cell.

        Raises:
            OSError: the journal refuses.
        """
        self._call.recorder.record(self.opened, Metrics(time=time.time(), values=dict(values)))

    def doubt(self, reasons: str) -> None:
        """Records why what was measured of it is to be doubted.

        Raises:
            OSError: the journal refuses.
        """
        self._call.recorder.record(self.opened, Tags(time=time.time(), values={TAINTED_TAG: reasons}))

    def dismiss(self) -> None:
        """Lets it end; `finish` waits for it."""
        if self.end is None:
            self._worker.dismiss()

    def finish(self) -> End:
        """Waits for its end, and returns it.

        Raises:
            OSError: the journal refuses.
        """
        if self.end is None:
            self._heard(End)
        return self.end or End(time=time.time(), outcome="failed", error="its worker did not end")

    def kill(self) -> End:
        """Ends it at once, and returns how it ended."""
        self._worker.kill()
        return self.end or End(time=time.time(), outcome="interrupted", error="cancelled")

    def close(self, end: End) -> None:
        """Closes its row.

        Args:
            end: what came of it.

        Raises:
            OSError: the journal refuses.
        """
        self._call.recorder.close(self.opened, end)
        if end.outcome != "finished" and not self._call.stopped():
            self._call.listener.note(f"{self.run.name}: {end.outcome}: {end.error}")
