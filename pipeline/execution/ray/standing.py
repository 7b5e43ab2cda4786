"""Cells that take turns on a cluster, as their rounds see them: all of a group in one actor, on one node.

A round is a comparison within seconds on one GPU; cells of a group are never on two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.design.records import End, Record, TurnOrder, parse_record
from pipeline.design.spec import RunSpec
from pipeline.errors import OutsideError
from pipeline.execution.ray import node
from pipeline.execution.ray.membership import resources
from pipeline.execution.ray.placement import Slot
from pipeline.execution.ray.standing_node import remote_class
from pipeline.execution.ray.stream import WorkerLostError, lost_end, records_of

CALL_SECONDS = 60.0  # that a call which measures nothing may take


@dataclass(frozen=True)
class Stand:
    """Where the cells of a group stand.

    Attributes:
        actor: Ray's handle.
        slot: which it keeps.
    """

    actor: Any
    slot: Slot


class RayStands:
    """The actors of all groups.

    Args:
        ray: the module, connected.
        request: what all runs need.
        cancelled: says whether all runs are to end.
    """

    def __init__(self, ray: Any, request: node.Request, cancelled: Callable[[], bool]) -> None:
        self._ray = ray
        self._request = request
        self._cancelled = cancelled
        self._actors: list[Any] = []

    @contextmanager
    def open(self, slot: Slot, spec: RunSpec) -> Iterator[Stand]:
        """Starts an actor on a slot's node, and ends it with all that stands there.

        Args:
            slot: where.
            spec: a cell that will stand there, for what it needs.
        """
        options = resources(spec, self._request.device, slot.node)
        actor = remote_class(self._ray).options(**options).remote(self._request, slot.node)
        self._actors.append(actor)
        try:
            yield Stand(actor, slot)
        finally:
            if not self._cancelled():
                with suppress(Exception):  # it may be lost; what it held has ended with it
                    self._ray.get(actor.close.remote(), timeout=CALL_SECONDS)
            self._kill(actor)
            self._actors.remove(actor)

    def kill(self) -> None:
        """Kills all actors, and with them all that stands."""
        for actor in list(self._actors):
            self._kill(actor)

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # it may be lost; whatever is left dies with the driver
            self._ray.kill(actor, no_restart=True)

    def stand(self, stand: Stand, spec: RunSpec, folder: Path) -> RayStandingWorker:
        """Starts the worker of a cell.

        Args:
            stand: where.
            spec: the cell.
            folder: its own on this machine.

        Raises:
            OutsideError: no process can be started.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").unlink(missing_ok=True)
        worker = RayStandingWorker(self._ray, stand, folder, self._cancelled)
        worker.begin(spec)
        return worker

    def free_mib(self, stand: Stand) -> tuple[float, float]:
        """Free memory where a group stands, MiB; infinite where it is lost, which its cells will tell."""
        with suppress(self._ray.exceptions.RayError):
            host, gpu = self._ray.get(stand.actor.free_mib.remote(), timeout=CALL_SECONDS)
            return float(host), float(gpu)
        return float("inf"), float("inf")


class RayStandingWorker:
    """A cell in an actor; see `launcher.StandsStill`.

    Args:
        ray: the module, connected.
        stand: where it stands.
        folder: its own on this machine.
        cancelled: says whether all runs are to end.
    """

    def __init__(self, ray: Any, stand: Stand, folder: Path, cancelled: Callable[[], bool]) -> None:
        self._ray = ray
        self._stand = stand
        self._folder = folder
        self._cancelled = cancelled
        self._number = -1
        self._lost = ""
        self._told: list[Record] = []

    def begin(self, spec: RunSpec) -> None:
        """Has the actor start the process.

        Raises:
            OutsideError: it cannot be started.
        """
        actor = self._stand.actor
        try:
            self._told.append(parse_record(self._ray.get(actor.provenance.remote())))
            self._number, problem = self._ray.get(actor.stand.remote(spec.model_dump_json()))
        except self._ray.exceptions.RayError as error:
            self._lost = type(error).__name__
            return
        if problem:
            raise OutsideError(f"node {self._stand.slot.name}: {problem}")

    def until(self, kind: type[Record], seconds: float | None) -> Generator[Record, None, None]:
        """See `StandsStill.until`."""
        told, self._told = self._told, []
        yield from told
        if not self._lost:
            call = self._stand.actor.until.options(num_returns="streaming")
            try:
                stream = call.remote(self._number, kind.__name__, seconds)
                for record in records_of(self._ray, stream, self._folder, self._cancelled):
                    yield record
                    if isinstance(record, (kind, End)):
                        return
                self._lost = "its stream ended"
            except WorkerLostError as error:
                self._lost = str(error)
        yield lost_end(self._stand.slot, self._lost, cancelled=self._cancelled())

    def order(self, turn: TurnOrder) -> None:
        """See `StandsStill.order`; calls of an actor keep their order."""
        self._stand.actor.order.remote(self._number, turn.model_dump_json())

    def dismiss(self) -> None:
        """See `StandsStill.dismiss`."""
        self._stand.actor.dismiss.remote(self._number)

    def kill(self) -> None:
        """See `StandsStill.kill`."""
        with suppress(Exception):  # an actor that is lost has ended it
            self._ray.get(self._stand.actor.kill.remote(self._number), timeout=CALL_SECONDS)
