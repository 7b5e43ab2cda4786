"""Who is told what happens in a grid, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Metrics, Progress


class Listener(Protocol):
    """Sees what happens, to show it; called from several threads."""

    def preparing(self, text: str) -> None:
        """Data and models are being prepared; called often."""
        ...

    def begin(self, total: int, done: int) -> None:
        """The grid starts: `total` cells, `done` of them finished before."""
        ...

    def started(self, run: PlannedRun) -> None:
        """A run has been launched."""
        ...

    def progress(self, run: PlannedRun, record: Progress | Metrics) -> None:
        """A run reports."""
        ...

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """A run has ended."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


@dataclass
class GridOutcome:
    """How a grid call ended."""

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
