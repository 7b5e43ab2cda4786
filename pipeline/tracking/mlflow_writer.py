"""Applies journal entries to a tracking store: a store is made from its journals.

Everything here can be repeated without harm. A run is found again by its key (a tag), a metric keeps the time of
its record (MLflow stores the same key, step, time and value once), and params never change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.design.names import HEARTBEAT_TAG, KEY_TAG, KILLED_STATE
from pipeline.paths import STATE_DIR
from pipeline.tracking.attempts import heartbeats_of
from pipeline.tracking.entries import Entry, Refused, well_formed
from pipeline.tracking.liveness import ENDED, is_alive
from pipeline.tracking.mlflow_batches import Refusal, encodable
from pipeline.tracking.mlflow_errors import (
    StoreChangedError,
    UndeliverableError,
    cause,
    is_answer,
    is_missing,
    is_permanent,
)
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.trusted import is_folder_name, readable

PAUSES = (0.25, 0.5, 1.0)  # s, between tries at what a store that answers others refuses
_OURS = (
    f"{KEY_TAG.partition('.')[0]}.",
    HEARTBEAT_TAG,
    "env.",
    "tune.",
)  # prefixes of tags that only this program changes


class MlflowWriter:
    """Applies entries to a store.

    Args:
        store: The store; its `problems` get what cannot be written.
        state_dir: `mlruns`; files elsewhere are no artifacts.
    """

    def __init__(self, store: MlflowStore, state_dir: Path = STATE_DIR) -> None:
        self._store = store
        self._state_dir = state_dir
        self._again = self._rest = False
        self._made: set[str] = set()  # rows that this writer has made
        self._deleted: set[str] = set()  # rows that somebody has deleted since they were delivered
        self._sick: set[str] = set()  # rows that the store answers with an error of its own
        self._actions: dict[str, Callable[[Entry], list[Refusal] | None]] = {
            "open": self._open,
            "close": self._close,
            "artifact": self._artifact,
            "withdraw": self._withdraw,
        }

    @property
    def token(self) -> str:
        """See `delivery.EntrySink.token`."""
        return self._store.token

    @property
    def stamp(self) -> int:
        """See `delivery.EntrySink.stamp`."""
        return self._store.stamp

    def sign(self) -> int:
        """See `delivery.EntrySink.sign`."""
        return self._store.sign()

    def has(self, key: str) -> bool:
        """See `delivery.EntrySink.has`."""
        return self._store.run_id(key) is not None or self._store.is_deleted(key)

    def check(self) -> None:
        """See `delivery.EntrySink.check`."""
        self._store.check()

    def open_again(self) -> None:
        """See `delivery.EntrySink.open_again`."""
        self._store.open_again()
        self._made.clear()
        self._deleted.clear()

    def apply(self, entries: Sequence[Entry], *, again: bool = False, rest: bool = False) -> list[Refused]:
        """Applies journal entries, in order; metrics of one run go in few batches.

        Args:
            entries: What is to happen.
            again: They may have been delivered before: rows that were deleted since stay so, and what is newer stays.
            rest: What is before them in the journal was delivered by another process.

        Returns:
            What the store refuses for good, with what it said.

        Raises:
            StoreChangedError: The store lacks a row that it had.
            Exception: What MLflow raises when the store is away; the call can be repeated whole.
        """
        self._again, self._rest = again, rest
        told = len(self._store.problems)
        try:
            self._store.check(file_only=True)
            return self._apply(entries)
        except BaseException:
            del self._store.problems[told:]  # they come again with the next try
            raise

    def _apply(self, entries: Sequence[Entry]) -> list[Refused]:
        refused: list[Refused] = []
        waiting: dict[str, list[Entry]] = {}
        for entry in entries:
            key = str(entry.get("key", ""))
            if not well_formed(entry):
                why = f"an entry of kind {str(entry.get('kind'))[:40]!r} that cannot be read"
                self._store.problems.append(why)
                refused.append((entry, why))
                continue
            if key in self._deleted:
                continue
            if entry.get("kind") in ("metrics", "tags"):
                waiting.setdefault(key, []).append(entry)
                continue
            if key in waiting:
                refused += self._attempt(self._batch, waiting.pop(key))
            action = self._actions.get(str(entry.get("kind")))
            if action is not None:
                refused += self._attempt(lambda given, action=action: action(given[0]), [entry])  # type: ignore[misc]
        for held in waiting.values():
            refused += self._attempt(self._batch, held)
        return refused

    def _attempt(self, action: Callable[[list[Entry]], list[Refusal] | None], given: list[Entry]) -> list[Refused]:
        """Runs one action on entries of one row; returns what the store refuses for good, and is passed over."""
        key = str(given[0].get("key", ""))
        told = len(self._store.problems)
        pauses = list(() if key in self._sick else PAUSES)
        while True:
            try:
                return [({"key": key, **refusal.values}, refusal.why) for refusal in action(given) or ()]
            except UndeliverableError as error:
                why = str(error)
            except Exception as error:  # MLflow, SQLAlchemy, requests and the drivers each have their own
                if is_missing(error) and self._store.forget(key):
                    raise StoreChangedError("it lacks rows that it had") from None
                if not is_permanent(error):
                    if not is_answer(error):
                        raise
                    self._store.prove()  # a store that takes nothing at all is away
                    if pauses:
                        del self._store.problems[told:]
                        time.sleep(pauses.pop(0))
                        continue
                    self._sick.add(key)
                why = cause(error)
            self._store.problems.append(why)
            return [(entry, why) for entry in given]

    def _open(self, entry: Entry) -> list[Refusal] | None:
        key = str(entry["key"])
        run_id = self._store.run_id(key)
        tags = {encodable(name): encodable(value) for name, value in entry["tags"].items()}
        if run_id is None:
            if self._again and self._store.is_deleted(key):
                self._deleted.add(key)
                return None
            parent = entry.get("parent")
            made = {**tags, "mlflow.parentRunId": self._known(str(parent))} if parent else tags
            name = encodable(entry["name"])
            run_id = self._store.create_run(key, made, name=name, start_time=int(entry["time"]))
            self._made.add(key)
        elif not entry.get("parent") and not self._newer(run_id, entry):
            self._store.reopen(run_id)
        return self._store.log(run_id, params=entry.get("params", {}), tags=self._tags(key, run_id, tags))

    def _close(self, entry: Entry) -> list[Refusal] | None:
        key = str(entry["key"])
        if entry.get("orphan") and self._store.run_id(key) is None:  # it never came to be
            return None
        run_id = self._known(key)
        if entry.get("orphan") and not self._orphaned(run_id):
            return None
        if self._newer(run_id, entry):
            return None
        refused = self._store.log(run_id, tags=entry.get("tags", {}))
        self._store.end(run_id, str(entry["status"]), int(entry["time"]))
        return refused

    def _newer(self, run_id: str, entry: Entry) -> bool:
        """Whether a row has ended since an entry that is applied again."""
        ended = self._store.ended_at(run_id) if self._again else None
        return ended is not None and ended >= int(entry["time"])

    def _tags(self, key: str, run_id: str, tags: dict[str, str]) -> dict[str, str]:
        """Of tags that are written again, those that nobody may have changed since."""
        if not self._again or key in self._made or all(name.startswith(_OURS) for name in tags):
            return tags
        there = self._store.tags_of(run_id)
        return {name: value for name, value in tags.items() if name.startswith(_OURS) or name not in there}

    def _known(self, key: str) -> str:
        """MLflow's id of a row that has to be there.

        Raises:
            StoreChangedError: It is not, and it was opened before what this delivery began with.
            UndeliverableError: It is not, and never was.
        """
        if self._rest and self._store.run_id(key) is None and not self._store.is_deleted(key):
            raise StoreChangedError("it lacks rows that it had")
        return self._store.known(key)

    def _orphaned(self, run_id: str) -> bool:
        """Whether a row is open and none of the controllers registered on it lives."""
        beats = heartbeats_of(self._store.tags_of(run_id))
        at_work = [(name, value) for name, value in beats if value != ENDED]
        living = any(is_alive(name, int(value) / 1000 if value.isdigit() else None) for name, value in at_work)
        return not living and self._store.is_open(run_id)

    def _withdraw(self, entry: Entry) -> None:
        run_id = self._store.run_id(str(entry["key"]))
        if run_id is not None:
            self._store.end(run_id, KILLED_STATE, int(entry["time"]))
            self._store.delete_run(str(entry["key"]))

    def _artifact(self, entry: Entry) -> None:
        path, folder = Path(str(entry["path"])), str(entry.get("folder") or "")
        if not readable(path, self._state_dir) or not is_folder_name(folder):
            if not path.is_file():
                raise UndeliverableError(f"artifact {encodable(path.name)} is gone")
            raise UndeliverableError(f"{encodable(path)} is no artifact of a run here")
        self._store.log_artifact(self._known(str(entry["key"])), path, folder)

    def _batch(self, entries: list[Entry]) -> list[Refusal] | None:
        key = str(entries[0].get("key", ""))
        run_id = self._known(key)
        metrics: list[tuple[str, float, int, int]] = []
        tags: dict[str, Any] = {}
        for entry in entries:
            if entry["kind"] == "tags":
                tags |= entry["values"]
            else:
                step = int(entry.get("step") or 0)
                metrics += [(name, float(value), int(entry["time"]), step) for name, value in entry["values"].items()]
        return self._store.log(run_id, metrics=metrics, tags=self._tags(key, run_id, tags))
