"""Which nodes take runs: like ones with room; those that join later are vetted, those that are lost are told."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.design.spec import RunSpec
from pipeline.errors import InputError, OutsideError
from pipeline.execution.ray import cluster, membership
from pipeline.execution.ray.cluster import ClusterNode
from pipeline.execution.ray.membership import Membership, commonest_model, units
from pipeline.execution.ray.placement import LocalAssignments, NodeSlots
from pipeline.execution.ray.vetting import NodeLostError
from tests.support.processes import until
from tests.support.training import small_spec


class Vetting:
    """Answers for the nodes: by name, what they are, or what is wrong."""

    def __init__(self, **answers: str | Exception) -> None:
        self.answers = answers

    def facts(self, machine: ClusterNode) -> dict[str, str]:
        answer = self.answers[machine.id]
        if isinstance(answer, Exception):
            raise answer
        return {"hostname": machine.name, "model": answer}

    def check(self, machine: ClusterNode, specs: Sequence[RunSpec]) -> None:
        assert specs and machine.id in self.answers


class Cluster:
    """A cluster whose nodes the test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, vetting: Vetting, per_node: int | None = None) -> None:
        self.nodes: dict[str, ClusterNode] = {}
        self.notes: list[str] = []
        self.slots = NodeSlots(LocalAssignments())
        monkeypatch.setattr(cluster, "machines", lambda _: dict(self.nodes))
        monkeypatch.setattr(membership, "REFRESH_SECONDS", 0.0)
        fixed: Any = vetting
        self.members = Membership(
            None, "head:1", "cpu", per_node, fixed, self.slots, threading.Event(), self.notes.append
        )

    def add(self, name: str, cpus: int = 2) -> None:
        self.nodes[name] = ClusterNode(name, f"host-{name}", gpus=0, cpus=cpus)

    def admit(self, spec: RunSpec | None = None) -> None:
        self.members.admit([spec or small_spec(num_threads=1)], self.notes.append)


def test_nodes_of_the_commonest_hardware_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cluster(monkeypatch, Vetting(a="old", b="new", c="new", d=NodeLostError("gone")), per_node=2)
    for name in "abcd":
        made.add(name)
    made.add("small", cpus=0)
    made.admit()
    assert made.slots.total == 4
    assert "Ray node host-a is left out: has old, the others new" in made.notes
    assert "Ray node host-d is left out: it was lost while it was checked" in made.notes


def test_a_cluster_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cluster(monkeypatch, Vetting(a="old"))
    made.add("a", cpus=2)
    with pytest.raises(OutsideError, match="Ray at head:1: no node has 4 CPUs for a run"):
        made.admit(small_spec(num_threads=4))


def test_a_node_s_problem_ends_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cluster(monkeypatch, Vetting(a=InputError("Ray node host-a: bad")))
    made.add("a")
    with pytest.raises(InputError, match="host-a: bad"):
        made.admit()


def test_nodes_get_lost_and_join(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cluster(monkeypatch, Vetting(a="new", b="new", c="old"))
    made.add("a")
    made.admit()
    del made.nodes["a"]
    made.add("b")
    made.add("c")
    made.members.refresh()
    assert any("Ray node host-a is lost" in note for note in made.notes)
    until(lambda: "Ray node host-b has joined" in made.notes, 30)
    until(lambda: any("host-c is left out" in note for note in made.notes), 30)
    assert made.slots.total == 1


def test_a_cluster_that_stays_empty_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Cluster(monkeypatch, Vetting(a="new"))
    made.add("a")
    made.admit()
    made.nodes.clear()
    made.members.refresh()  # may come back
    monkeypatch.setattr(membership, "EMPTY_SECONDS", -1.0)
    with pytest.raises(OutsideError, match="no node that could take a run"):
        made.members.refresh()


def test_needs_and_models() -> None:
    spec = small_spec(num_threads=3).model_copy(update={"nproc": 2})
    assert (units(spec, "cpu"), units(spec, "cuda")) == (6, 2)
    assert commonest_model({"a": 1, "b": 1, "c": 3}, {"a": "x", "b": "x", "c": "y"}) == "y"
