"""Which node a block runs on, and which slots are free: bookkeeping of the Ray launcher, without Ray.

All runs of a block belong on one node, so that a contrast is never across machines. Several controllers agree on
the node through a shared table (`BlockAssignments`); a block that has lost its node moves on to another one, and is
marked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

MAX_MOVES = 100
_REFRESHES = 2  # after which a node that was in none of them is taken for lost


class BlockAssignments(Protocol):
    """Table that all controllers share: the nodes of a block, one after the other."""

    def assign(self, block: int, attempt: int, node: str) -> str:
        """Writes a node as the block's unless another one is there; returns what is there.

        Args:
            block: number of the block.
            attempt: how many nodes the block has had, and lost, before.
            node: identifier of the node.
        """
        ...


class LocalAssignments:
    """A table of one controller alone."""

    def __init__(self) -> None:
        self._table: dict[tuple[int, int], str] = {}

    def assign(self, block: int, attempt: int, node: str) -> str:
        """See `BlockAssignments.assign`."""
        return self._table.setdefault((block, attempt), node)


@dataclass
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's identifier; a node that comes back has a new one.
        name: host name, for people.
        slots: runs at once.
        used: runs of this controller at the moment.
    """

    id: str
    name: str
    slots: int
    used: int = 0


@dataclass(frozen=True)
class Slot:
    """A slot for one run.

    Attributes:
        node: Ray's identifier of the node.
        name: its host name.
        moved: why the run's block is on more than one node; empty when it is not.
    """

    node: str
    name: str
    moved: str = ""


class NodeSlots:
    """Slots of the nodes that live; thread-safe.

    Args:
        assignments: which node each block belongs to, shared by all controllers.
    """

    def __init__(self, assignments: BlockAssignments) -> None:
        self._assignments = assignments
        self._nodes: dict[str, Node] = {}
        self._names: dict[str, str] = {}
        self._alive: set[str] = set()
        self._excluded: set[str] = set()
        self._round = 0
        self._missing: dict[str, int] = {}  # node -> refresh at which it was found missing
        self._blocks: dict[int, list[str]] = {}  # block -> its nodes, one after the other
        self._lock = threading.Lock()

    def add(self, node: Node) -> None:
        """Takes a node that has joined, with all its slots free."""
        with self._lock:
            self._nodes.setdefault(node.id, node)
            self._names[node.id] = node.name

    def refresh(self, alive: Iterable[str]) -> list[str]:
        """Takes note of the nodes that live; returns the names of those that were lost since the last refresh."""
        with self._lock:
            self._alive = set(alive)
            self._round += 1
            gone = [node for node in self._nodes.values() if node.id not in self._alive]
            for node in gone:
                del self._nodes[node.id]
                self._missing[node.id] = self._round - _REFRESHES
        return [node.name for node in gone]

    def exclude(self, node: str) -> None:
        """Counts a node that lives but cannot be used as missing."""
        with self._lock:
            self._missing[node] = self._round - _REFRESHES
            self._excluded.add(node)

    @property
    def total(self) -> int:
        """Slots of all nodes, free or not."""
        with self._lock:
            return sum(node.slots for node in self._nodes.values())

    @property
    def free(self) -> int:
        """Free slots of all nodes."""
        with self._lock:
            return sum(node.slots - node.used for node in self._nodes.values())

    def used(self, node: str) -> int:
        """Runs of this controller on a node at the moment."""
        with self._lock:
            return self._nodes[node].used if node in self._nodes else 0

    def take(self, block: int | None) -> Slot | None:
        """Takes a slot for a run.

        Args:
            block: of the run; None for a run that may be on any node.

        Returns:
            The slot; None when there is none now.
        """
        with self._lock:
            if block is None:
                node = self._emptiest()
                return None if node is None else self._occupy(node, "")
            nodes = self._blocks.setdefault(block, [])
            node = self._node_of(block, nodes)
            if node is None or node.used >= node.slots:
                return None
            return self._occupy(node, self._moves(block, nodes))

    def give_back(self, slot: Slot) -> None:
        """Frees a slot; one of a lost node is gone with it."""
        with self._lock:
            node = self._nodes.get(slot.node)
            if node is not None:
                node.used -= 1

    def _occupy(self, node: Node, moved: str) -> Slot:
        node.used += 1
        return Slot(node.id, node.name, moved)

    def _node_of(self, block: int, nodes: list[str]) -> Node | None:
        """Returns the living node of a block; assigns one if it has none, or has lost it."""
        while len(nodes) < MAX_MOVES:
            if nodes and nodes[-1] in self._nodes:
                return self._nodes[nodes[-1]]
            if nodes and not self._gone(nodes[-1]):
                return None
            wanted = self._emptiest()
            if wanted is None:  # assigned only to a node that can take it at once
                return None
            nodes.append(self._assignments.assign(block, len(nodes), wanted.id))
        return None

    def _gone(self, node: str) -> bool:
        """Whether a node is lost for good. Another controller may know a node that joined after the last refresh."""
        if node in self._alive and node not in self._excluded:
            return False
        return self._round >= self._missing.setdefault(node, self._round) + _REFRESHES

    def _emptiest(self) -> Node | None:
        """The node with the most free slots, then with the fewest blocks."""
        assigned = [nodes[-1] for nodes in self._blocks.values() if nodes]
        open_nodes = [node for node in self._nodes.values() if node.used < node.slots]
        return max(
            open_nodes, key=lambda node: (node.slots - node.used, -assigned.count(node.id), node.id), default=None
        )

    def _moves(self, block: int, nodes: list[str]) -> str:
        if len(nodes) < 2:
            return ""
        names = " -> ".join(f"{self._names.get(node, 'a lost node')} ({node[:8]})" for node in nodes)
        return f"block {block} lost its node and moved: {names}"
