"""One run as a Ray task: submitting it, following its stream of records and files, ending it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.design.records import End, Record
from pipeline.design.spec import RunSpec
from pipeline.errors import OutsideError
from pipeline.execution.ray import node
from pipeline.execution.ray.membership import resources
from pipeline.execution.ray.placement import NodeSlots, Slot
from pipeline.execution.ray.vetting import last_line
from pipeline.paths import write_atomically


class WorkerLostError(Exception):
    """A run's Ray worker is gone, perhaps with its node; the text is the kind of Ray's error."""


class RunStreams:
    """Runs as tasks of the cluster.

    Args:
        ray: the module, connected.
        request: what all runs need.
        slots: of the nodes.
        cancelled: says whether all runs are to end.
    """

    def __init__(self, ray: Any, request: node.Request, slots: NodeSlots, cancelled: Callable[[], bool]) -> None:
        self._ray = ray
        self._request = request
        self._slots = slots
        self._cancelled = cancelled
        self._watched: set[tuple[str, int]] = set()
        self._streams: set[Any] = set()

    def submit(self, spec: RunSpec, folder: Path, slot: Slot) -> Any:
        """Starts a run on the node of its slot; a checkpoint in its folder goes along.

        Args:
            spec: the run.
            folder: the run's own on this machine.
            slot: where it runs.

        Returns:
            The stream, for `follow`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").unlink(missing_ok=True)
        saved = folder / node.CHECKPOINT
        checkpoint = self._ray.put(saved.read_bytes()) if saved.is_file() else None
        key = (slot.node, spec.seed)
        watch = key not in self._watched and self._slots.used(slot.node) == 1
        self._watched.add(key)
        # max_calls=0: the worker process, hence its fork server, is kept; the run itself is forked for each task
        task = self._ray.remote(max_calls=0, max_retries=0)(node.run_cell)
        options = {**resources(spec, self._request.device, slot.node), "name": spec.name}
        return task.options(**options).remote(
            self._request, spec.model_dump_json(), slot.node, slot.moved, watch, checkpoint
        )

    def follow(self, stream: Any, folder: Path) -> Generator[Record, None, End]:
        """Yields the run's records up to its `End`, which is returned; files are put into the run's folder.

        Args:
            stream: of `submit`.
            folder: the run's own on this machine.

        Raises:
            WorkerLostError: the stream broke off.
            OutsideError: the run sent a file that does not belong into its folder.
        """
        self._streams.add(stream)
        try:
            if self._cancelled():
                self._ray.cancel(stream)
            for record in records_of(self._ray, stream, folder, self._cancelled):
                if isinstance(record, End):
                    return record
                yield record
        except GeneratorExit:  # a tuner has seen enough of the run
            self._ray.cancel(stream)
            raise
        finally:
            self._streams.discard(stream)
        return interrupted_end("cancelled") if self._cancelled() else _failed("its stream ended without a last record")

    def cancel(self, *, force: bool) -> None:
        """Ends all runs that are followed.

        Args:
            force: kill their Ray workers, without last records.
        """
        for stream in list(self._streams):
            with suppress(Exception):  # the stream may just have ended; whatever is left dies with the driver
                self._ray.cancel(stream, force=force)


def records_of(ray: Any, stream: Any, folder: Path, cancelled: Callable[[], bool]) -> Generator[Record, None, None]:
    """Yields the records of a stream of items; an `End` is the last one. Files are put into the run's folder.

    Args:
        ray: the module, connected.
        stream: a task's references to `node.Item`s, in their order.
        folder: the run's own on this machine.
        cancelled: says whether all runs are to end.

    Raises:
        WorkerLostError: the stream broke off.
        OutsideError: the run sent a file that does not belong into its folder.
    """
    errors = ray.exceptions
    try:
        for reference in stream:
            received = ray.get(reference)
            try:
                item = node.parse(received)
            except ValueError:  # nothing further that it says can be trusted; the other runs are not touched
                ray.cancel(stream)
                yield _failed("the worker sent something that is no record")
                return
            if isinstance(item, node.File):
                keep_file(folder, item)
                continue
            yield item
            if isinstance(item, End):
                return
    except errors.TaskCancelledError:
        yield interrupted_end("cancelled")
    except errors.OutOfMemoryError as error:
        yield End(time=time.time(), outcome="oom", error=last_line(error))
    except errors.RayTaskError as error:
        yield interrupted_end("cancelled") if cancelled() else _failed(last_line(error))
    except errors.RayError as error:
        raise WorkerLostError(type(error).__name__) from error


def keep_file(folder: Path, file: node.File) -> None:
    """Puts a file of a run into its folder, whole or not at all.

    Raises:
        OutsideError: its path leads out of the folder.
    """
    target = (folder / file.path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise OutsideError(f"Ray: a run sent a file outside of its folder: {file.path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, file.content)


def interrupted_end(why: str) -> End:
    """Returns the last record of a run that was stopped, or lost."""
    return End(time=time.time(), outcome="interrupted", error=why)


def lost_end(slot: Slot, why: str, *, cancelled: bool) -> End:
    """Returns the last record of a run whose stream broke off.

    Args:
        slot: where it ran.
        why: the kind of Ray's error.
        cancelled: whether all runs are to end, so that it is no wonder.
    """
    lost = f"node {slot.name} ({slot.node[:8]}) or its Ray worker was lost: {why}"
    return interrupted_end("cancelled" if cancelled else lost)


def _failed(why: str) -> End:
    return End(time=time.time(), outcome="failed", error=why)
