"""The node's side of cells that take turns: all cells of a group stand in one Ray actor, on the GPU that it was given.

A turn is a call of the actor, which answers with the cell's records as a stream. What the actor holds ends with it: Ray
kills it where its controller ends, and the cells' processes end with their parent.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from pipeline.design.records import End, Ready, Turn, TurnOrder
from pipeline.design.spec import RunSpec
from pipeline.errors import AblateError
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.execution.local.standing import StandingWorker
from pipeline.execution.ray.node import (
    Item,
    Request,
    assigned_gpus,
    doubts_here,
    launcher_of,
    node_tags,
    with_files,
)

AWAITED = {kind.__name__: kind for kind in (Ready, Turn, End)}  # that a controller waits for


class StandingNode:
    """What stands on one slot of a node.

    Args:
        request: what all runs need.
        node: Ray's name of this node, for provenance.
    """

    def __init__(self, request: Request, node: str) -> None:
        self._launcher: LocalLauncher = launcher_of(request)
        self._launcher.start()
        self._gpu = assigned_gpus() if request.device == "cuda" else None
        self._node = node
        self._doubts: list[str] | None = None
        self._workers: dict[int, tuple[RunSpec, StandingWorker]] = {}

    def stand(self, spec_json: str) -> tuple[int, str]:
        """Starts the worker of a cell.

        Args:
            spec_json: the cell.

        Returns:
            (its number, why it cannot be started); the latter is empty where all is well.
        """
        spec = RunSpec.model_validate_json(spec_json)
        number = len(self._workers)
        try:
            self._workers[number] = spec, self._launcher.stand(spec, self._gpu)
        except (AblateError, OSError) as error:
            return number, str(error) or type(error).__name__
        return number, ""

    def provenance(self) -> str:
        """Tags of every cell here; others are looked for once, before the first one of ours uses the machine."""
        if self._doubts is None:
            self._doubts = doubts_here(self._gpu, watch=True)
        return node_tags(self._node, "", self._doubts)

    def until(self, number: int, kind: str, seconds: float | None) -> Iterator[Item]:
        """What a cell tells up to a record of a kind, or else to its `End`.

        Args:
            number: of the cell.
            kind: of `AWAITED`.
            seconds: after which it is stopped, with the outcome `timeout`; None for never.
        """
        spec, worker = self._workers[number]
        yield from with_files(worker.until(AWAITED[kind], seconds), self._launcher.work_dir(spec))

    def order(self, number: int, turn_json: str) -> None:
        """Lets a cell take a turn."""
        self._workers[number][1].order(TurnOrder.model_validate_json(turn_json))

    def dismiss(self, number: int) -> None:
        """Lets a cell end."""
        self._workers[number][1].dismiss()

    def kill(self, number: int) -> None:
        """Ends a cell at once."""
        self._workers[number][1].kill()

    def free_mib(self) -> tuple[float, float]:
        """Free memory here, MiB: the host's, and the least of the GPUs'."""
        return self._launcher.free_mib(self._gpu)

    def close(self) -> None:
        """Ends what still stands, and removes what it has written."""
        for spec, worker in self._workers.values():
            worker.kill()
            shutil.rmtree(self._launcher.work_dir(spec), ignore_errors=True)
        self._workers = {}


def remote_class(ray: Any) -> Any:
    """The actor's class; it is not started again where it dies, and makes one call after the other."""
    return ray.remote(max_restarts=0, max_task_retries=0)(StandingNode)
