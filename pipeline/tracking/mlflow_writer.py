"""Applies journal entries to a tracking store: a store is made from its journals.

Everything here can be repeated without harm. A run is found again by its key (a tag), a metric keeps the time of
its record (MLflow stores the same key, step, time and value once), and params never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.design.names import KILLED_STATE
from pipeline.errors import first_line
from pipeline.tracking.attempts import heartbeats_of
from pipeline.tracking.entries import Entry, well_formed
from pipeline.tracking.liveness import ENDED, is_alive
from pipeline.tracking.mlflow_connection import UndeliverableError, is_permanent
from pipeline.tracking.mlflow_store import MlflowStore


class MlflowWriter:
    """Applies entries to a store.

    Args:
        store: The store; its `problems` get what cannot be written.
    """

    def __init__(self, store: MlflowStore) -> None:
        self._store = store
        self._actions: dict[str, Callable[[Entry], None]] = {
            "open": self._open,
            "close": self._close,
            "artifact": self._artifact,
            "withdraw": self._withdraw,
        }

    def apply(self, entries: Sequence[Entry]) -> None:
        """Applies journal entries, in order; metrics of one run go in few batches.

        Raises:
            Exception: what MLflow raises when the store is away; the call can be repeated whole.
        """
        waiting: dict[str, list[Entry]] = {}
        for entry in entries:
            key = str(entry.get("key", ""))
            if not well_formed(entry):
                self._store.problems.append(f"an entry of kind {str(entry.get('kind'))[:40]!r} that cannot be read")
                continue
            if entry.get("kind") in ("metrics", "tags"):
                waiting.setdefault(key, []).append(entry)
                continue
            if key in waiting:
                self._attempt(self._batch, key, waiting.pop(key))
            action = self._actions.get(str(entry.get("kind")))
            if action is not None:
                self._attempt(action, entry)
        for key, held in waiting.items():
            self._attempt(self._batch, key, held)

    def _attempt(self, action: Any, *arguments: Any) -> None:
        """Runs one action; what the store refuses for good is noted and passed over."""
        try:
            action(*arguments)
        except UndeliverableError as error:
            self._store.problems.append(str(error))
        except Exception as error:  # MLflow, SQLAlchemy, requests and the drivers each have their own
            if not is_permanent(error):
                raise
            self._store.problems.append(first_line(error))

    def _open(self, entry: Entry) -> None:
        key = str(entry["key"])
        run_id = self._store.run_id(key)
        tags = {str(name): str(value) for name, value in entry["tags"].items()}
        if run_id is None:
            parent = entry.get("parent")
            made = {**tags, "mlflow.parentRunId": self._store.known(str(parent))} if parent else tags
            run_id = self._store.create_run(key, made, name=str(entry["name"]), start_time=int(entry["time"]))
        elif not entry.get("parent"):
            self._store.reopen(run_id)
        self._store.log(run_id, params=entry.get("params", {}), tags=tags)

    def _close(self, entry: Entry) -> None:
        run_id = self._store.known(str(entry["key"]))
        if entry.get("orphan") and not self._orphaned(run_id):
            return
        self._store.log(run_id, tags=entry.get("tags", {}))
        self._store.end(run_id, str(entry["status"]), int(entry["time"]))

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
        path = Path(str(entry["path"]))
        if not path.is_file():
            raise UndeliverableError(f"artifact {path.name} is gone")
        run_id = self._store.known(str(entry["key"]))
        self._store.log_artifact(run_id, path, str(entry.get("folder") or ""))

    def _batch(self, key: str, entries: Iterable[Entry]) -> None:
        run_id = self._store.known(key)
        metrics: list[tuple[str, float, int, int]] = []
        tags: dict[str, str] = {}
        for entry in entries:
            if entry["kind"] == "tags":
                tags |= entry["values"]
            else:
                step = int(entry.get("step") or 0)
                metrics += [(name, float(value), int(entry["time"]), step) for name, value in entry["values"].items()]
        self._store.log(run_id, metrics=metrics, tags=tags)
