"""What a launcher is: the protocol that every way of running cells fulfils."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipeline.design.plan import PlannedRun
from pipeline.design.records import Record, TurnOrder
from pipeline.design.spec import RunSpec


class Launcher(Protocol):
    """Runs cells somewhere, each in a process of its own, and hands their records back.

    One launcher serves one command. Its methods are called in this order:

    1. `start`, once, from the main thread, while nothing else has been done: what takes long may go on in the
       background.
    2. `preflight`, once, from the main thread. It ends before the first `launch`; `jobs` is read after it.
    3. `work_dir` and `launch`, once for each try at a cell, from as many threads as `jobs` says, each of which reads
       one run to its end before it launches the next. A cell whose run was lost may be launched again.
    4. `cancel`, from any thread, at any time after `start`: from a signal handler in the main thread, or from a
       thread whose run has ended everything. It may be called more than once, and returns without waiting.
    5. `kill`, from the signal handler of the second signal, right before the command leaves without cleaning up. It
       may be called while any other method is at work, and must neither wait nor raise.

    Nothing closes a launcher: what it holds has to end with this process, however that ends.

    A launcher may offer more, which is looked for with `isinstance`: `ChoosesNext`, `PreparesNext` and `HasCellsStand`.
    """

    @property
    def jobs(self) -> int:
        """Runs at once, at least 1 after `preflight`.

        It goes down by one when a device is lost, whose run then ends as `interrupted`; at 0 the command ends.
        """
        ...

    def start(self) -> None:
        """Begins what takes a while: a server to fork from, the connection to a cluster.

        Raises:
            InputError: An option of the launcher is not allowed.
            OutsideError: What the runs need is not there, or does not answer.
        """
        ...

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        """Checks device, data, models and weights where the runs will be, and prepares data.

        Args:
            specs: Runs that stand for all that will be launched: one for each thing that can be wrong.
            note: Shows the user a line; called from this thread.

        Raises:
            InputError: A specification asks for something that cannot work; one line.
            OutsideError: Something is missing there: device, network, disk; one line.
        """
        ...

    def work_dir(self, spec: RunSpec) -> Path:
        """Returns the run's own folder on this machine, where the files that its records name are found.

        The same for each try at a run, different for different runs; it need not be there before `launch`.
        """
        ...

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        """Runs a cell and yields its records in their order, the last one an `End`, and no other one.

        Whatever becomes of the run is an outcome of its `End`: `finished`; `oom` when memory was exhausted; `timeout`;
        `interrupted` after `cancel`, or when device or machine were lost; `failed` for all else, with the reason in
        one line. Waits for a free slot where all are taken. A reader that has seen enough closes the generator, which
        ends the run.

        Raises:
            AblateError: Nothing can be launched any more; the command ends.
        """
        ...

    def cancel(self) -> None:
        """Stops all runs: each one's last record says `interrupted`, and so does that of any run launched later."""
        ...

    def kill(self) -> None:
        """Kills all runs at once, without their last records."""
        ...


@runtime_checkable
class ChoosesNext(Protocol):
    """A launcher that is not free in its choice: a cluster's, which keeps the runs of a block on one machine.

    `choose` is called, under a lock of the caller's, whenever a thread wants its next run. The chosen run is then
    launched, or released when another controller turns out to have it.
    """

    def choose(self, runs: Sequence[PlannedRun]) -> int | None:
        """Keeps a slot for the first of `runs` that may start now, and returns its index; None when none may.

        Raises:
            OutsideError: No run can start any more.
        """
        ...

    def release(self, run: PlannedRun) -> None:
        """Gives the slot of a chosen run back: it will not be launched."""
        ...


class StandsStill(Protocol):
    """A worker that stands still between its turns."""

    def until(self, kind: type[Record], seconds: float | None) -> Generator[Record, None, None]:
        """What it tells up to a record of a kind, or else to its `End`, after which it is gone.

        Args:
            kind: of the last record.
            seconds: after which it is stopped, with the outcome `timeout`; None for never.
        """
        ...

    def order(self, turn: TurnOrder) -> None:
        """Lets it take a turn."""
        ...

    def dismiss(self) -> None:
        """Lets it end: it says what all its turns measured, and then `End`."""
        ...

    def kill(self) -> None:
        """Ends it at once."""
        ...


@runtime_checkable
class HasCellsStand(Protocol):
    """A launcher that can have many cells set up at once, on one slot, which take turns there."""

    def work_dir(self, spec: RunSpec) -> Path:
        """See `Launcher.work_dir`."""
        ...

    def slot(self, spec: RunSpec) -> AbstractContextManager[Any]:
        """Keeps a slot for whoever is in the context, which only the two methods below can read.

        Args:
            spec: one of the cells that will stand there; they all need the same.

        Raises:
            OutsideError: there is none any more.
        """
        ...

    def stand(self, spec: RunSpec, slot: Any) -> StandsStill:
        """Starts the worker of a cell that takes turns; its first record is waited for with `until(Ready, ..)`.

        Raises:
            OutsideError: no process can be started.
        """
        ...

    def free_mib(self, slot: Any) -> tuple[float, float]:
        """Free memory where the slot is, MiB: the host's, and the least of the slot's GPUs (infinite without any)."""
        ...


@runtime_checkable
class PreparesNext(Protocol):
    """A launcher that can set the next run's process up while the present run, of which all is measured, still ends."""

    def prepare(self, spec: RunSpec, after: RunSpec) -> None:
        """Starts the process of the run that follows `after` on its slot; it sets up, and waits before it trains.

        Called at most once for a run, between two records of `after`, by the thread that reads them. `launch` of
        `spec`, which then always follows, lets it train.

        Raises:
            OSError: There is no room for another process; the run is launched as usual when its turn comes.
        """
        ...
