"""What a launcher is: the protocol that every place of execution fulfils."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline.design.plan import PlannedRun
from pipeline.design.records import Record
from pipeline.design.spec import RunSpec


class Launcher(Protocol):
    """What the controller needs of a launcher.

    Attributes:
        jobs: runs at once; goes down when a device is lost, whose run then ends as `interrupted`.
    """

    jobs: int

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        """Runs a cell; the last record is an `End`."""
        ...

    def work_dir(self, spec: RunSpec) -> Path:
        """The run's folder, for artifacts."""
        ...

    def cancel(self) -> None:
        """Stops all runs."""
        ...


class ChoosesNext(Protocol):
    """What a launcher offers besides when it is not free in its choice: a cluster's, which keeps blocks together."""

    def choose(self, runs: Sequence[PlannedRun]) -> int | None:
        """Keeps a place for the first of `runs` that may start now, and returns its index; None when none may."""
        ...

    def release(self, run: PlannedRun) -> None:
        """Gives the place of a chosen run back: it will not be launched."""
        ...


@runtime_checkable
class PreparesNext(Protocol):
    """What a launcher offers besides when it can start the next run's worker before the present run's has ended."""

    def prepare(self, spec: RunSpec, after: RunSpec) -> None:
        """Starts the worker of the run to be launched after `after`; it sets up, and waits before it trains."""
        ...
