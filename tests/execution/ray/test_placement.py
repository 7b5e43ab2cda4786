"""Which node a block runs on: one for all its cells, another one only when it is lost, the same for all controllers."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pipeline.execution.ray.placement import LocalAssignments, Node, NodeSlots, Slot


def places(*slots: int, pins: LocalAssignments | None = None) -> NodeSlots:
    """Nodes n0, n1, .. with these slots."""
    found = NodeSlots(pins or LocalAssignments())
    found.refresh([f"n{index}" for index in range(len(slots))])
    for index, count in enumerate(slots):
        found.add(Node(f"n{index}", f"host{index}", count))
    return found


def taken(found: NodeSlots, block: int | None) -> Slot:
    place = found.take(block)
    assert place is not None
    return place


def test_cells_of_a_block_share_a_node_and_blocks_spread() -> None:
    found = places(2, 2)
    first, second = taken(found, 0), taken(found, 0)
    assert first.node == second.node
    assert found.take(0) is None, "its node is full: the other one is not for it"
    assert taken(found, 1).node != first.node
    found.give_back(first)
    assert taken(found, 0).node == first.node


def test_a_lost_node_s_block_moves_and_says_so() -> None:
    found = places(1, 1)
    place = taken(found, 0)
    assert place.moved == ""
    other = next(node for node in ("n0", "n1") if node != place.node)
    assert found.refresh([other]) == [place.name]
    found.give_back(place)  # of a node that is gone: nothing to free
    moved = taken(found, 0)
    assert moved.node == other
    assert place.name in moved.moved and moved.name in moved.moved
    assert taken_later_blocks_are_not_marked(found, moved)


def taken_later_blocks_are_not_marked(found: NodeSlots, moved: Slot) -> bool:
    found.give_back(moved)
    return taken(found, 1).moved == ""


def test_without_any_node_a_block_waits() -> None:
    found = places(1)
    taken(found, 0)
    found.refresh([])
    assert found.take(0) is None and found.total == 0
    found.refresh(["m"])
    found.add(Node("m", "hostm", 1))
    assert taken(found, 0).node == "m"


def test_a_node_that_only_another_controller_knows_is_waited_for() -> None:
    pins = LocalAssignments()
    pins.assign(0, 0, "new")
    found = places(1, pins=pins)
    assert found.take(0) is None
    found.refresh(["n0", "new"])
    assert found.take(0) is None, "it lives, and is being checked"
    found.add(Node("new", "newhost", 1))
    assert taken(found, 0).node == "new"


def test_a_pin_to_a_node_that_no_look_finds_is_given_up() -> None:
    pins = LocalAssignments()
    pins.assign(0, 0, "gone")
    found = places(1, pins=pins)
    assert found.take(0) is None
    found.refresh(["n0"])
    found.refresh(["n0"])
    assert taken(found, 0).node == "n0"


def test_a_refused_node_counts_as_lost() -> None:
    pins = LocalAssignments()
    pins.assign(0, 0, "other-model")
    found = places(1, pins=pins)
    found.refresh(["n0", "other-model"])
    found.exclude("other-model")
    assert taken(found, 0).node == "n0"


@dataclass
class Ran:
    """A run that was placed: its block, where, and whether the place was marked."""

    block: int
    node: str
    moved: bool


@given(
    slots=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    steps=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["take", "free", "lose"]), st.integers(0, 5)), max_size=60
    ),
)
def test_two_controllers_never_split_a_block_over_living_nodes(
    slots: list[int], steps: list[tuple[int, str, int]]
) -> None:
    pins = LocalAssignments()
    both = [places(*slots, pins=pins), places(*slots, pins=pins)]
    alive = [f"n{index}" for index in range(len(slots))]
    open_places: list[list[Slot]] = [[], []]
    ran: list[Ran] = []
    for who, action, number in steps:
        if action == "lose" and len(alive) > 1:
            alive.pop(number % len(alive))
            for found in both:
                found.refresh(alive)
        elif action == "free" and open_places[who]:
            both[who].give_back(open_places[who].pop())
        elif action == "take":
            place = both[who].take(number)
            if place is not None:
                assert place.node in alive
                open_places[who].append(place)
                ran.append(Ran(number, place.node, bool(place.moved)))
        for index, found in enumerate(both):
            counted = [sum(place.node == node for place in open_places[index]) for node in alive]
            assert all(0 <= count <= slots[int(node[1:])] for count, node in zip(counted, alive, strict=True))
            assert found.free == sum(slots[int(node[1:])] for node in alive) - sum(counted)
    for block in {run.block for run in ran}:
        runs = [run for run in ran if run.block == block]
        for run in runs:  # whatever ran on a second node is marked
            assert run.moved == (run.node != runs[0].node)
