"""What came of a grid, in numbers."""

from __future__ import annotations

import pytest

from pipeline.execution.listener import GridOutcome


@pytest.mark.parametrize(
    ("outcomes", "finished", "complete"),
    [({"finished": 2}, 2, True), ({"finished": 1, "oom": 1}, 1, False), ({}, 0, False)],
)
def test_a_grid_is_complete_when_every_cell_is_finished(
    outcomes: dict[str, int], finished: int, complete: bool
) -> None:
    grid = GridOutcome(cells=2, outcomes=outcomes)
    assert (grid.finished, grid.complete) == (finished, complete)
