"""Tries at cells as the tracking store and the journals know them, and the tags by which they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KEY_TAG = "ablate.key"
OWNER_TAG = "ablate.owner"
CLAIM_TAG = "ablate.claim"
HEARTBEAT_TAG = "ablate.heartbeat."
OUTCOME_TAG = "ablate.outcome"
FINAL = ("finished", "oom")  # outcomes that are not tried again
PARENTS = ("grid", "tune")  # kinds of rows that others lie under


@dataclass(frozen=True)
class Attempt:
    """One try at a cell, or a parent run.

    Attributes:
        key: its own, made with the journal's entry.
        digest: of the cell; empty for a parent.
        outcome: empty while the run is open.
        owner: of the controller, see `ownership.owner`.
        kind: `run`, or one of `PARENTS`.
        run_id: MLflow's; empty when only a journal knows the run.
        parent: key (in a journal) or MLflow id (in the store) of the run that it lies under.
        start_time: in milliseconds since the epoch.
        command: of a parent.
        claim: `pending`, `held` or empty, see `ownership.settle`.
        heartbeats: of a parent: controllers that have registered on it, each with its last heartbeat.
    """

    key: str
    digest: str
    outcome: str
    owner: str
    kind: str = "run"
    run_id: str = ""
    parent: str = ""
    start_time: int = 0
    command: str = ""
    claim: str = ""
    heartbeats: tuple[tuple[str, str], ...] = ()


def attempt_of(
    key: str, tags: Mapping[str, str], *, start_time: int, parent: str, outcome: str = "", run_id: str = ""
) -> Attempt:
    """An attempt from the tags of its row; the rest is not kept in tags, or is known better elsewhere."""
    return Attempt(
        key=key,
        digest=tags.get("ablate.digest", ""),
        outcome=outcome,
        owner=tags.get(OWNER_TAG, ""),
        kind=tags.get("ablate.kind", ""),
        run_id=run_id,
        parent=parent,
        start_time=start_time,
        command=tags.get("ablate.command", ""),
        claim=tags.get(CLAIM_TAG, ""),
        heartbeats=heartbeats_of(tags),
    )


def heartbeats_of(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Controllers that have registered on a parent run, each with its last heartbeat."""
    return tuple((name.removeprefix(HEARTBEAT_TAG), v) for name, v in tags.items() if name.startswith(HEARTBEAT_TAG))
