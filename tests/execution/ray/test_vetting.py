"""Asking the nodes of a cluster: all at once, the first problem told, lost ones apart."""

from __future__ import annotations

import threading

import pytest

from pipeline.errors import InputError, OutsideError
from pipeline.execution.ray.cluster import ClusterNode
from pipeline.execution.ray.vetting import NodeLostError, ask_all, last_line

NODES = [ClusterNode(f"n{number}", f"host{number}", gpus=0, cpus=2) for number in range(3)]


def test_all_are_asked_at_once_and_lost_ones_are_told_apart() -> None:
    together = threading.Barrier(3)

    def ask(machine: ClusterNode) -> str:
        together.wait(30)
        if machine.id == "n1":
            raise NodeLostError("gone")
        return machine.name

    assert ask_all(ask, NODES) == ({"n0": "host0", "n2": "host2"}, [NODES[1]])


def test_the_first_problem_of_a_living_node_is_raised_when_all_have_answered() -> None:
    answered: list[str] = []

    def ask(machine: ClusterNode) -> str:
        answered.append(machine.id)
        if machine.id != "n0":
            raise InputError(f"{machine.name}: bad")
        return ""

    with pytest.raises(InputError, match="host1: bad"):
        ask_all(ask, NODES)
    assert sorted(answered) == ["n0", "n1", "n2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Traceback\n  somewhere\nValueError: bad\n", "ValueError: bad"),
        ("\nModuleNotFoundError: No module named 'pipeline.execution'\n", "ablate is not installed there"),
        ("", "OutsideError"),
    ],
)
def test_a_task_s_error_is_one_line(text: str, told: str) -> None:
    assert last_line(OutsideError(text)).startswith(told)
