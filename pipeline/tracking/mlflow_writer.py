"""Writes journal entries to a tracking store, the journal being the source that the store is made from.

Everything here can be repeated without harm. A run is found again by its key (a tag), a metric keeps the time of
its record (MLflow stores the same key, step, time and value once), and params never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import first_line
from pipeline.tracking.attempts import heartbeats_of
from pipeline.tracking.entries import Entry, well_formed
from pipeline.tracking.liveness import ENDED, is_alive
from pipeline.tracking.mlflow_store import MlflowStore, UndeliverableError, permanent


class MlflowWriter:
    """Applies entries to a store.

    Args:
        tracker: the store; its `problems` get what cannot be written.
    """

    def __init__(self, tracker: MlflowStore) -> None:
        self._tracker = tracker
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
                self._tracker.problems.append(f"an entry of kind {str(entry.get('kind'))[:40]!r} that cannot be read")
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
            self._tracker.problems.append(str(error))
        except Exception as error:  # MLflow, SQLAlchemy, requests and the drivers each have their own
            if not permanent(error):
                raise
            self._tracker.problems.append(first_line(error))

    def _open(self, entry: Entry) -> None:
        key = str(entry["key"])
        run_id = self._tracker.run_id(key)
        tags = {str(name): str(value) for name, value in entry["tags"].items()}
        if run_id is None:
            parent = entry.get("parent")
            made = {**tags, "mlflow.parentRunId": self._tracker.known(str(parent))} if parent else tags
            run_id = self._tracker.create_run(key, made, name=str(entry["name"]), start_time=int(entry["time"]))
        elif not entry.get("parent"):
            self._tracker.client.update_run(run_id, status="RUNNING")
        self._tracker.log(run_id, params=entry.get("params", {}), tags=tags)

    def _close(self, entry: Entry) -> None:
        run_id = self._tracker.known(str(entry["key"]))
        if entry.get("orphan") and not self._orphaned(run_id):
            return
        self._tracker.log(run_id, tags=entry.get("tags", {}))
        self._tracker.client.set_terminated(run_id, str(entry["status"]), int(entry["time"]))

    def _orphaned(self, run_id: str) -> bool:
        """Whether a row is open and none of the controllers registered on it lives."""
        run = self._tracker.client.get_run(run_id)
        beats = heartbeats_of(run.data.tags)
        at_work = [(name, value) for name, value in beats if value != ENDED]
        living = any(is_alive(name, int(value) / 1000 if value.isdigit() else None) for name, value in at_work)
        return run.info.status == "RUNNING" and not living

    def _withdraw(self, entry: Entry) -> None:
        run_id = self._tracker.run_id(str(entry["key"]))
        if run_id is not None:
            self._tracker.client.set_terminated(run_id, "KILLED", int(entry["time"]))
            self._tracker.delete_run(str(entry["key"]))

    def _artifact(self, entry: Entry) -> None:
        path = Path(str(entry["path"]))
        if not path.is_file():
            raise UndeliverableError(f"artifact {path.name} is gone")
        run_id = self._tracker.known(str(entry["key"]))
        self._tracker.client.log_artifact(run_id, str(path), str(entry.get("folder") or "") or None)

    def _batch(self, key: str, entries: Iterable[Entry]) -> None:
        run_id = self._tracker.known(key)
        metrics: list[tuple[str, float, int, int]] = []
        tags: dict[str, str] = {}
        for entry in entries:
            if entry["kind"] == "tags":
                tags |= entry["values"]
            else:
                step = int(entry.get("step") or 0)
                metrics += [(name, float(value), int(entry["time"]), step) for name, value in entry["values"].items()]
        self._tracker.log(run_id, metrics=metrics, tags=tags)
