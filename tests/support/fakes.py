"""Parts that do nothing, in place of those that show a command's course or keep what it has found.

A launcher without processes is in `launchers.py`, a store without a database in `stores.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Phase, Progress, Record
from pipeline.design.spec import RunSpec
from pipeline.tracking.recorder import OpenRun


class NullListener:
    """A listener that shows nothing."""

    def preparing(self, text: str) -> None:
        """Nothing."""

    def begin(self, total: int, done: int, left: Sequence[RunSpec] = (), jobs: int = 1) -> None:
        """Nothing."""

    def started(self, run: PlannedRun) -> None:
        """Nothing."""

    def progress(self, run: PlannedRun, record: Progress | Metrics | Phase) -> None:
        """Nothing."""

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class FakeRecorder:
    """A recorder that keeps nothing but what a search reads.

    Attributes:
        rows: run, outcome and further tags of each run that has ended, in the order of the ends.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[PlannedRun, str, dict[str, str]]] = []

    def open(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun:
        """Opens a row."""
        assert plan.study.name
        return OpenRun("key", run, work_dir)

    def record(self, opened: OpenRun, record: Record) -> None:
        """Keeps metrics."""
        if isinstance(record, Metrics):
            opened.values.update(record.values)

    def close(self, opened: OpenRun, end: End, more: Mapping[str, str] | None = None) -> None:
        """Closes a row."""
        self.rows.append((opened.run, end.outcome, dict(more or {})))

    def replay_abandoned(self) -> None:
        """Nobody else writes."""

    def attempts(self) -> list[Any]:
        """None are known."""
        return []

    def close_orphans(self, attempts: list[Any]) -> int:
        """Nothing to close."""
        return len(attempts)
