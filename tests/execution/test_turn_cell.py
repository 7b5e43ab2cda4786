"""One cell that takes turns: how often it is started, and how its row ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.design.plan import PlannedRun
from pipeline.design.records import TurnOrder
from pipeline.design.selection import GridOptions, select_plan
from pipeline.design.turns import turn_groups
from pipeline.execution.cell_queue import LOST_TRIES
from pipeline.execution.turn_cell import RESTARTS, TurnCall, TurnCell
from tests.support.launchers import ListenerLog
from tests.support.standing import FakeStandingLauncher, Life, RoundLog


class Place:
    """A call with one cell, the baseline."""

    def __init__(self, folder: Path, *lives: Life) -> None:
        options = GridOptions(
            models="test_resnet", datasets="digits", techniques="pm", study="quickstart", device="cpu"
        )
        plan = select_plan(options, "cpu").plan
        self.launcher = FakeStandingLauncher(folder, {"baseline": lives or (Life(),)})
        self.log, self.listener, self.stopped = RoundLog(), ListenerLog(), False
        self.call = TurnCall(plan, self.launcher, self.log, self.listener, None, lambda: self.stopped)
        self.run: PlannedRun = turn_groups(plan)[0].runs[0]

    def cell(self) -> TurnCell:
        return TurnCell(self.call, self.run, None, 128)


def test_it_is_set_up_and_has_had_a_turn_that_does_not_count(tmp_path: Path) -> None:
    place = Place(tmp_path)
    cell = place.cell()
    assert cell.end is None and cell.ready is not None and cell.seconds == pytest.approx(128e-4)
    assert [(order.number, order.images, order.head) for _, order in place.launcher.turns] == [(0, 128, 128)]
    turn = cell.turn(TurnOrder(number=7, images=256, head=0))
    assert turn is not None and (turn.number, turn.images) == (7, 256)
    cell.dismiss()
    end = cell.finish()
    cell.close(end)
    assert end.outcome == "finished" and place.log.closed == [("baseline", end)]
    assert cell.opened.values["updates/count"] == 2.0, "what all turns measured is recorded"


@pytest.mark.parametrize(
    ("how", "starts"),
    [("failed", 1 + RESTARTS), ("timeout", 1 + RESTARTS), ("interrupted", LOST_TRIES), ("oom", 1)],
)
def test_how_often_it_is_started(tmp_path: Path, how: str, starts: int) -> None:
    """A process that was lost through no fault of its own is given more chances, one without memory none."""
    place = Place(tmp_path, Life(dies_in=0, how=how))
    cell = place.cell()
    assert cell.end is not None and cell.end.outcome == how and len(place.launcher.stood) == starts
    assert len(place.log.opened) == 1, "it has one row all the time"


def test_nothing_is_started_when_the_call_is_over(tmp_path: Path) -> None:
    place = Place(tmp_path, Life(dies_in=2), Life())
    cell = place.cell()
    assert cell.turn(TurnOrder(number=1, images=128, head=0)) is None
    place.stopped = True
    cell.revive()
    assert len(place.launcher.stood) == 1 and cell.end is not None
    place.stopped = False
    cell.revive()
    assert len(place.launcher.stood) == 2 and cell.end is None


def test_one_that_is_killed_was_interrupted(tmp_path: Path) -> None:
    place = Place(tmp_path)
    cell = place.cell()
    assert cell.kill().outcome == "interrupted" and place.launcher.stood[0][1].killed
