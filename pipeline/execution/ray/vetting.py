"""Whether a node of the cluster can take runs: what it is, and whether data, models and weights are in order there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from pipeline.design.spec import RunSpec
from pipeline.errors import InputError, OutsideError
from pipeline.execution.ray import cluster, node
from pipeline.execution.ray.cluster import ClusterNode
from pipeline.execution.threads import Background

LOSS_SECONDS = 40.0  # that Ray takes at most to tell a lost node from a crashed worker
_POLL_SECONDS = 0.5

Answer = TypeVar("Answer")


class NodeLostError(OutsideError):
    """A node has left the cluster while it was asked something."""


class NodeVetting:
    """Asks nodes what they are, and has them check what the runs need.

    Args:
        ray: the module, connected.
        request: what all runs need.
        cancelled: set when nobody waits for an answer any more.
    """

    def __init__(self, ray: Any, request: node.Request, cancelled: threading.Event) -> None:
        self._ray = ray
        self._request = request
        self._cancelled = cancelled

    def facts(self, machine: ClusterNode) -> dict[str, str]:
        """Returns versions and hardware of a node (see `node.facts`).

        Raises:
            OutsideError: its versions are not those of this process, or it does not answer.
        """
        theirs: dict[str, str] = self._ask(machine, node.facts, self._request.device)
        mine = node.facts("cpu")
        for name in node.COMPARED:
            if theirs[name] != mine[name]:
                raise OutsideError(
                    f"Ray node {machine.name}: {name} is {theirs[name]} there and {mine[name]} here; "
                    "install the same environment on all machines"
                )
        return theirs

    def check(self, machine: ClusterNode, specs: Sequence[RunSpec]) -> None:
        """Has a node prepare data and check models and weights.

        Args:
            machine: the node.
            specs: one run for each thing that can be wrong.

        Raises:
            InputError: a specification asks for something that cannot work.
            OutsideError: something is missing there, or the node does not answer.
        """
        code, text = self._ask(machine, node.check_node, self._request, [spec.model_dump_json() for spec in specs])
        if code:
            raise (InputError if code == InputError.exit_code else OutsideError)(f"Ray node {machine.name}: {text}")

    def _ask(self, machine: ClusterNode, function: Any, *arguments: Any) -> Any:
        """Calls a function of `node` on a node."""
        errors = self._ray.exceptions
        task = self._ray.remote(num_cpus=0, max_retries=0, max_calls=0)(function)
        answer = task.options(scheduling_strategy=cluster.on_node(machine.id)).remote(*arguments)
        try:
            while True:
                done, _ = self._ray.wait([answer], timeout=_POLL_SECONDS)
                if done:
                    return self._ray.get(answer)
                if self._cancelled.is_set():
                    raise OutsideError("cancelled")
        except errors.RayTaskError as error:
            raise OutsideError(f"Ray node {machine.name}: {last_line(error)}") from None
        except errors.RayError as error:
            lost = NodeLostError if self._has_left(machine.id) else OutsideError
            raise lost(f"Ray node {machine.name}: lost ({type(error).__name__})") from None

    def _has_left(self, node_id: str) -> bool:
        """Says whether a node that failed has left the cluster; waits until Ray knows."""
        deadline = time.monotonic() + LOSS_SECONDS
        while not self._cancelled.is_set() and time.monotonic() < deadline:
            with suppress(Exception):
                if node_id not in cluster.machines(self._ray):
                    return True
            time.sleep(_POLL_SECONDS)
        return False


def ask_all(
    function: Callable[[ClusterNode], Answer], machines: Iterable[ClusterNode]
) -> tuple[dict[str, Answer], list[ClusterNode]]:
    """Asks all nodes at once.

    Args:
        function: asks one node.
        machines: the nodes.

    Returns:
        Answers by the node's identifier, and the nodes that were lost meanwhile.

    Raises:
        InputError, OutsideError: the first problem of a node that lives; all have answered then.
    """
    asked = [(machine, Background(partial(function, machine))) for machine in machines]
    for _, call in asked:
        call.wait()
    answers, lost = {}, []
    for machine, call in asked:
        try:
            answers[machine.id] = call.result()
        except NodeLostError:
            lost.append(machine)
    return answers, lost


def last_line(error: Exception) -> str:
    """Returns the last line of what a task raised, which names the error, or that a node has no `ablate`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any("No module named 'pipeline" in line or "from 'pipeline." in line for line in lines):
        return "ablate is not installed there, or in another version"
    return lines[-1][:400]
