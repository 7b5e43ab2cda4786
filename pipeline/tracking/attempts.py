"""Tries at cells as the tracking store and the journals know them, and the tags by which they are known."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.design.names import (
    CLAIM_TAG,
    COMMAND_TAG,
    DIGEST_TAG,
    EARLIER_HEARTBEAT_TAG,
    FACTORS_TAG,
    HEARTBEAT_TAG,
    KIND_TAG,
    OPENED_TAG,
    OWNER_TAG,
    STUDY_TAG,
    TECHNIQUES_TAG,
)
from pipeline.tracking import entries, journal
from pipeline.tracking.delivery import delivered_state

PARENTS = ("grid", "tune", "speed")  # kinds of rows that others lie under


@dataclass(frozen=True)
class Attempt:
    """One try at a cell, or a parent run.

    Attributes:
        key: Its own, made with the journal's entry.
        digest: The cell's; empty for a parent.
        outcome: How it ended; empty while the run is open.
        owner: The controller's name, see `liveness.owner`.
        kind: `run`, `sentinel`, `turns`, or one of `PARENTS`.
        run_id: MLflow's; empty when only a journal knows the run.
        parent: Key (in a journal) or MLflow's id (in the store) of the run that it lies under.
        start_time: When it began, in ms since the epoch.
        command: What the parent was opened by (`grid`, `run`, `tune NAME`); empty for a try at a cell.
        claim: `pending`, `held` or empty, see `claims.settle_claim`.
        heartbeats: Controllers that have registered on a parent, each with its last heartbeat.
        name: The row's.
        study: Name of a parent's study; empty where the row does not say.
        factors: What a parent's design crosses, see `Plan.factors`.
        opened: When the last call that works under a parent began, in ms since the epoch.
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
    name: str = ""
    study: str = ""
    factors: str = ""
    opened: int = 0


def attempt_of(
    key: str,
    tags: Mapping[str, str],
    *,
    start_time: int,
    parent: str,
    outcome: str = "",
    run_id: str = "",
    name: str = "",
) -> Attempt:
    """Makes an attempt from the tags of its row.

    Args:
        key: Its own.
        tags: The row's.
        start_time: When it began, in ms since the epoch.
        parent: Key or MLflow's id of the run that it lies under.
        outcome: How it ended; tags tell it before the row is closed.
        run_id: MLflow's, if the store knows the row.
        name: The row's, where no tag says it.
    """
    return Attempt(
        key=key,
        digest=tags.get(DIGEST_TAG, ""),
        outcome=outcome,
        owner=tags.get(OWNER_TAG, ""),
        kind=tags.get(KIND_TAG, ""),
        run_id=run_id,
        parent=parent,
        start_time=start_time,
        command=tags.get(COMMAND_TAG, ""),
        claim=tags.get(CLAIM_TAG, ""),
        heartbeats=heartbeats_of(tags),
        name=tags.get("mlflow.runName", name),
        study=tags.get(STUDY_TAG, ""),
        factors=tags.get(FACTORS_TAG) or tags.get(TECHNIQUES_TAG) or "baseline",  # of an earlier version's row
        opened=opened_at(tags.get(OPENED_TAG), start_time),
    )


def opened_at(tag: object, start_time: float) -> int:
    """When the last call that works under a parent run began, in ms since the epoch.

    Args:
        tag: What the row says, which any program may have written; None for nothing.
        start_time: When the row began, likewise.
    """
    text = str(tag)
    told = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    return max(told, int(start_time))


def heartbeats_of(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Controllers that have registered on a parent run, each with its last heartbeat."""
    found: dict[str, str] = {}
    for prefix in (EARLIER_HEARTBEAT_TAG, HEARTBEAT_TAG):
        found |= {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}
    return tuple(found.items())


@dataclass
class _Index:
    """What has been read of one journal."""

    offset: int = 0
    ours: bool = False
    owner: str = ""


class History:
    """The journals of a folder, read as they grow; safe to use from several threads.

    Args:
        folder: Where the journals are.
        uri: The store, without credentials.
        experiment: Its experiment's name; journals of other stores and experiments are skipped.
    """

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        self._folder = folder
        self._head = (uri, experiment)
        self._lock = threading.Lock()
        self._journals: dict[Path, _Index] = {}
        self._attempts: dict[str, Attempt] = {}
        self._opened: dict[str, tuple[Path, int]] = {}  # key -> journal, and offset behind the entry that opened it
        self._by_digest: dict[str, set[str]] = {}
        # rows may be closed from another journal than the one that opened them
        self._outcomes: dict[str, str] = {}

    def delivered(self) -> dict[Path, int]:
        """How far each journal is in the store; to be asked before the store is."""
        return {path: delivered_state(path).offset for path in self._folder.glob("*.journal")}

    def owners(self) -> set[str]:
        """Controllers that have written journals here; local claims keep them and this process apart."""
        with self._lock:
            self._read()
            return {index.owner for index in self._journals.values()}

    def merge(
        self, stored: Iterable[Attempt] | None, delivered: dict[Path, int], digest: str | None = None
    ) -> list[Attempt]:
        """All attempts (or those at one cell).

        Args:
            stored: What the store knows; None when it is away.
            delivered: What `delivered` gave before the store was asked. A row that was delivered and is not in the
                store has been deleted there, and counts no more.
            digest: The cell's, if it is about one.
        """
        merged = {attempt.key: attempt for attempt in stored or ()}
        with self._lock:
            self._read()
            keys = self._attempts.keys() if digest is None else self._by_digest.get(digest, set())
            for key in keys:
                in_store = merged.get(key)
                path, end = self._opened[key]
                if in_store is None and stored is not None and end <= delivered.get(path, 0):
                    continue
                merged[key] = self._merged(self._attempts[key], in_store)
        return list(merged.values())

    def _merged(self, mine: Attempt, in_store: Attempt | None) -> Attempt:
        """The store knows what other folders did, the journals what has not been delivered yet."""
        outcome = self._outcomes.get(mine.key, "")
        if in_store is None:
            return replace(mine, outcome=outcome)
        if mine.kind in PARENTS:  # shared: any controller may have opened it again
            return in_store
        claim = in_store.claim or mine.claim
        return replace(mine, outcome=outcome or in_store.outcome, run_id=in_store.run_id, claim=claim)

    def _read(self) -> None:
        """Reads what was appended since the last look."""
        for path in sorted(self._folder.glob("*.journal")):
            index = self._journals.setdefault(path, _Index())
            for entry, end in journal.read_entries(path, index.offset):
                index.offset = end
                if entry.get("kind") == "journal":
                    index.ours = (entry.get("uri"), entry.get("experiment")) == self._head
                    index.owner = str(entry.get("owner", ""))
                elif index.ours and entries.well_formed(entry):
                    self._note(path, entry, end)

    def _note(self, path: Path, entry: entries.Entry, end: int) -> None:
        kind, key = entry["kind"], entry.get("key", "")
        if kind == "open":
            attempt, before = _attempt(key, entry), self._attempts.get(key)
            if before is not None:  # a parent that is opened again keeps its age and its claim
                attempt = replace(attempt, start_time=before.start_time, claim=attempt.claim or before.claim)
            self._attempts[key] = attempt
            self._by_digest.setdefault(attempt.digest, set()).add(key)
            self._outcomes.pop(key, None)
            self._opened[key] = (path, end)
        elif kind == "close":
            self._outcomes[key] = str(entry.get("outcome", "failed"))
        elif kind == "withdraw" and key in self._attempts:
            self._by_digest[self._attempts.pop(key).digest].discard(key)
        elif kind == "tags" and CLAIM_TAG in entry["values"] and key in self._attempts:
            self._attempts[key] = replace(self._attempts[key], claim=str(entry["values"][CLAIM_TAG]))


def _attempt(key: str, entry: entries.Entry) -> Attempt:
    tags = {str(name): str(value) for name, value in entry["tags"].items()}
    return attempt_of(key, tags, start_time=entry["time"], parent=str(entry.get("parent") or ""), name=entry["name"])
