"""Who is told what happens in a grid, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Metrics, Phase, Progress
from pipeline.design.spec import RunSpec


class Listener(Protocol):
    """Sees what happens, to show it; called from several threads."""

    def preparing(self, text: str) -> None:
        """Shows that data and models are being prepared; called often."""
        ...

    def begin(self, total: int, done: int, left: Sequence[RunSpec] = (), jobs: int = 1) -> None:
        """Shows that the grid starts, or has grown.

        Args:
            total: cells.
            done: how many of them were finished before.
            left: those that will run, as far as they are known by now.
            jobs: runs at once.
        """
        ...

    def started(self, run: PlannedRun) -> None:
        """Shows that a run has been launched."""
        ...

    def progress(self, run: PlannedRun, record: Progress | Metrics | Phase) -> None:
        """Shows what a run reports."""
        ...

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """Shows that a run has ended; `values` are its metrics by name."""
        ...

    def note(self, text: str) -> None:
        """Shows a line."""
        ...


@dataclass
class GridOutcome:
    """How a grid call ended.

    Attributes:
        cells: all cells of the plan.
        outcomes: outcome -> number of cells, of this call and of those before it; `pending` for what was not run.
        interrupted: somebody stopped it.
        delivered: the store has everything; otherwise `ablate sync` has work to do.
        broken: why it could not go on, in one line; None while nothing is wrong.
    """

    cells: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False
    delivered: bool = True
    broken: str | None = None

    @property
    def finished(self) -> int:
        """Cells that are finished, before this call or in it."""
        return self.outcomes.get("finished", 0)

    @property
    def complete(self) -> bool:
        """Whether every cell is finished."""
        return self.finished == self.cells
