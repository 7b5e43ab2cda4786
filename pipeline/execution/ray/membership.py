"""Which nodes of the cluster take runs: those that are vetted, as they are found, get lost and join."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pipeline.design.spec import Device, RunSpec
from pipeline.errors import AblateError, OutsideError
from pipeline.execution.ray import cluster
from pipeline.execution.ray.cluster import ClusterNode
from pipeline.execution.ray.placement import Node, NodeSlots, Slot
from pipeline.execution.ray.vetting import LOSS_SECONDS, NodeVetting, ask_all

REFRESH_SECONDS = 2.0  # between looks at the cluster's nodes
EMPTY_SECONDS = 300.0  # without any node, after which nothing is waited for any more


class Membership:
    """The nodes that take runs, in `slots`.

    Args:
        ray: the module, connected.
        address: of the cluster, for messages.
        device: where runs train.
        per_node: runs at once on each node; None for one per GPU, on the CPU one.
        vetting: asks nodes.
        slots: of the nodes that are taken.
        cancelled: set when nothing is waited for any more.
        note: shows a line to the user.
    """

    def __init__(
        self,
        ray: Any,
        address: str,
        device: Device,
        per_node: int | None,
        vetting: NodeVetting,
        slots: NodeSlots,
        cancelled: threading.Event,
        note: Callable[[str], None],
    ) -> None:
        self._ray = ray
        self._address = address
        self._device = device
        self._per_node = per_node
        self._vetting = vetting
        self._slots = slots
        self._cancelled = cancelled
        self._note = note
        self._specs: list[RunSpec] = []
        self._need = 1
        self._model = ""
        self._seen: set[str] = set()
        self._refreshing = threading.Lock()
        self._refreshed = 0.0
        self._last_populated = 0.0

    def admit(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        """Vets all nodes that have room for a run, and takes those of the commonest hardware.

        Args:
            specs: one run for each thing that can be wrong.
            note: shows what goes on.

        Raises:
            InputError, OutsideError: the first difference or problem of a node, in one line.
        """
        self._specs = list(specs)
        self._need = max(units(spec, self._device) for spec in specs)
        machines = {one.id: one for one in cluster.machines(self._ray).values() if self._room(one)}
        if not machines:
            unit = "GPUs" if self._device == "cuda" else "CPUs"
            raise OutsideError(f"Ray at {self._address}: no node has {self._need} {unit} for a run")
        self._seen = set(machines)
        note(f"checking {len(machines)} node(s) of the Ray cluster")
        facts = self._of_each(self._vetting.facts, list(machines.values()))
        self._model = commonest_model(
            {node: self._room(machines[node]) for node in facts}, {node: fact["model"] for node, fact in facts.items()}
        )
        chosen = []
        for node, fact in facts.items():
            if fact["model"] == self._model:
                chosen.append(machines[node])
            else:
                self._leave_out(machines[node], f"has {fact['model']}, the others {self._model}")
        for node in self._of_each(self._check, chosen):
            self._slots.add(Node(node, facts[node]["hostname"], self._room(machines[node])))
        self._refresh()

    def _of_each(self, function: Callable[[ClusterNode], Any], machines: Sequence[ClusterNode]) -> dict[str, Any]:
        """Asks all nodes at once; one that is lost meanwhile is left out, as it would be a moment later."""
        answers, lost = ask_all(function, machines)
        for machine in lost:
            self._leave_out(machine, "it was lost while it was checked")
        if not answers:
            raise OutsideError(f"Ray at {self._address}: no node is left, all were lost while they were checked")
        return answers

    def _check(self, machine: ClusterNode) -> None:
        self._vetting.check(machine, self._specs)

    def _room(self, machine: ClusterNode) -> int:
        """Runs at once on a node: on the CPU one, unless asked for more, since they would disturb each other."""
        room = (machine.gpus if self._device == "cuda" else machine.cpus) // self._need
        wanted = self._per_node or (room if self._device == "cuda" else 1)
        return min(room, wanted)

    def _leave_out(self, machine: ClusterNode, why: str) -> None:
        self._slots.exclude(machine.id)
        self._note(f"Ray node {machine.name} is left out: {why}")

    def refresh(self) -> None:
        """Looks for nodes that were lost or joined, at most every `REFRESH_SECONDS`.

        Raises:
            OutsideError: the cluster has had no node for a while.
        """
        if time.monotonic() - self._refreshed < REFRESH_SECONDS or not self._refreshing.acquire(blocking=False):
            return
        try:
            self._refresh()
        finally:
            self._refreshing.release()
        if self._slots.total:
            self._last_populated = time.monotonic()
        elif time.monotonic() - self._last_populated > EMPTY_SECONDS:
            raise OutsideError(f"Ray at {self._address}: no node that could take a run for {EMPTY_SECONDS:g} s")

    def wait_for_loss(self, slot: Slot) -> None:
        """Waits until the node of a run that broke off is known to be lost, or Ray would know by now."""
        deadline = time.monotonic() + LOSS_SECONDS
        while not self._cancelled.is_set() and time.monotonic() < deadline:
            with suppress(Exception), self._refreshing:
                if slot.node not in self._refresh():
                    return
            time.sleep(1.0)

    def _refresh(self) -> set[str]:
        """Brings the slots up to date; returns the nodes that live."""
        machines = cluster.machines(self._ray)
        for name in self._slots.refresh(machines):
            self._note(f"Ray node {name} is lost: its cells run again elsewhere, their blocks are marked")
        for machine in machines.values():
            if machine.id not in self._seen and self._room(machine):
                self._seen.add(machine.id)
                threading.Thread(target=self._recruit, args=(machine,), daemon=True, name="recruit").start()
        now = time.monotonic()
        self._refreshed = now
        self._last_populated = self._last_populated or now
        return set(machines)

    def _recruit(self, machine: ClusterNode) -> None:
        """Takes a node that has joined, if it is like the others."""
        try:
            facts = self._vetting.facts(machine)
            if facts["model"] != self._model:
                raise OutsideError(f"has {facts['model']}, the others {self._model}")
            self._check(machine)
        except AblateError as error:
            self._leave_out(machine, str(error))
        else:
            self._slots.add(Node(machine.id, facts["hostname"], self._room(machine)))
            self._note(f"Ray node {machine.name} has joined")


def units(spec: RunSpec, device: Device) -> int:
    """Returns how many GPUs or CPUs a run takes."""
    return spec.nproc if device == "cuda" else spec.recipe.num_threads * spec.nproc


def resources(spec: RunSpec, device: Device, node: str) -> dict[str, Any]:
    """Returns Ray's options for what a run takes, on that node and no other.

    Args:
        spec: the run.
        device: where it trains.
        node: Ray's name of the node.
    """
    need = units(spec, device)
    room: dict[str, Any] = {"num_gpus": need, "num_cpus": 0} if device == "cuda" else {"num_cpus": need}
    return {**room, "scheduling_strategy": cluster.on_node(node)}


def commonest_model(room: dict[str, int], models: dict[str, str]) -> str:
    """Returns the hardware model with the most slots, on which the study stays.

    Args:
        room: node -> runs at once.
        models: node -> its GPU's or CPU's name.
    """
    counts: dict[str, int] = {}
    for node, model in models.items():
        counts[model] = counts.get(model, 0) + room[node]
    return max(sorted(counts), key=lambda model: counts[model])
