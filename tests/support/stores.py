"""A tracking store in memory, and what there is to be written to one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.design import study
from pipeline.design.names import KEY_TAG, OUTCOME_TAG
from pipeline.design.plan import Plan, build_plan
from pipeline.tracking.attempts import Attempt, attempt_of
from pipeline.tracking.mlflow_errors import StoreChangedError, UndeliverableError


def key_of(name: str) -> str:
    """A key as the program makes them, the same for the same name."""
    return uuid.uuid5(uuid.NAMESPACE_URL, name).hex


class Sink:
    """A store that keeps the entries that it is given, and can be away or replaced."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.away = False
        self.token = "0" * 32
        self.stamp = 0
        self.refuses: list[dict[str, Any]] = []
        self.opened = 0
        self._known = self.token

    def apply(self, entries: list[dict[str, Any]], **_how: bool) -> list[tuple[dict[str, Any], str]]:
        self._asked()
        self.entries += [entry for entry in entries if entry not in self.refuses]
        return [(entry, "refused") for entry in entries if entry in self.refuses]

    def _asked(self) -> None:
        if self.away:
            raise ConnectionError("connection refused\nmore")

    def replace(self) -> None:
        """Another store takes its place, with nothing in it."""
        self.entries.clear()
        self.token, self.stamp = uuid.uuid4().hex, 0

    def sign(self) -> int:
        self._asked()
        self.stamp += 1
        return self.stamp

    def has(self, key: str) -> bool:
        return any(entry.get("key") == key for entry in self.entries)

    def check(self) -> None:
        self._asked()
        if self._known != self.token:
            raise StoreChangedError("it is not the store that was opened")

    def open_again(self) -> None:
        self._known, self.opened = self.token, self.opened + 1


@dataclass
class StoredRun:
    """A run as the store keeps it."""

    tags: dict[str, str]
    name: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)


class MemoryStore:
    """What `MlflowStore` is to its users; `away` makes it refuse, as a server that is down does."""

    def __init__(self, uri: str = "http://store", experiment: str = "study") -> None:
        self.uri = uri
        self.experiment = experiment
        self.problems: list[str] = []
        self.runs: dict[str, StoredRun] = {}
        self.away = False
        self.deleted: set[str] = set()
        self.token, self.stamp = "0" * 32, 0
        self._opened = self.token

    def _asked(self) -> None:
        if self.away:
            raise ConnectionError("connection refused")

    def replace(self) -> None:
        """Another store takes its place, with nothing in it."""
        self.runs.clear()
        self.token, self.stamp = uuid.uuid4().hex, 0

    def sign(self) -> int:
        self._asked()
        self.stamp += 1
        return self.stamp

    def connect(self) -> None:
        self._asked()
        self._opened = self.token

    def check(self, *, file_only: bool = False) -> None:
        if not file_only:
            self._asked()
            if self._opened != self.token:
                raise StoreChangedError("it is not the store that was opened")

    def open_again(self) -> None:
        self._asked()
        self._opened = self.token

    def prove(self) -> None:
        self._asked()

    def forget(self, _key: str) -> bool:
        return False

    def is_deleted(self, key: str) -> bool:
        return key in self.deleted

    def ended_at(self, run_id: str) -> int | None:
        return None if self.is_open(run_id) else self.runs[run_id].end_time or 0

    def run_id(self, key: str) -> str | None:
        self._asked()
        return next((run_id for run_id, run in self.runs.items() if run.tags[KEY_TAG] == key), None)

    def known(self, key: str) -> str:
        run_id = self.run_id(key)
        if run_id is None:
            raise UndeliverableError(f"no run with key {key} in the store")
        return run_id

    def known_id(self, key: str) -> str | None:
        return next((run_id for run_id, run in self.runs.items() if run.tags[KEY_TAG] == key), None)

    def create_run(self, key: str, tags: dict[str, str], *, name: str, start_time: int) -> str:
        self._asked()
        run_id = f"id-{uuid.uuid4().hex}"
        self.runs[run_id] = StoredRun({**tags, KEY_TAG: key}, name, start_time)
        return run_id

    def delete_run(self, key: str) -> None:
        del self.runs[self.known(key)]

    def log(
        self,
        run_id: str,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        self._asked()
        run = self.runs[run_id]
        run.metrics += [point for point in metrics if point not in run.metrics]
        run.params |= params or {}
        run.tags |= tags or {}

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        self._asked()
        self.runs[run_id].artifacts.append(f"{folder}/{path.name}")

    def reopen(self, run_id: str) -> None:
        self._asked()
        self.runs[run_id].status = "RUNNING"

    def end(self, run_id: str, status: str, time_ms: int) -> None:
        self._asked()
        self.runs[run_id].status, self.runs[run_id].end_time = status, time_ms

    def is_open(self, run_id: str) -> bool:
        self._asked()
        return self.runs[run_id].status == "RUNNING"

    def set_tag(self, key: str, name: str, value: str) -> None:
        self.runs[self.known(key)].tags[name] = value

    def beat(self, key: str, name: str, value: str) -> None:
        self.set_tag(key, name, value)
        self.reopen(self.known(key))

    def tags(self, key: str) -> dict[str, str]:
        run_id = self.run_id(key)
        return dict(self.runs[run_id].tags) if run_id else {}

    def tags_of(self, run_id: str) -> dict[str, str]:
        self._asked()
        return dict(self.runs[run_id].tags)

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        self._asked()
        return [attempt for attempt in self._attempts() if digest in (None, attempt.digest)]

    def _attempts(self) -> Iterator[Attempt]:
        for run_id, run in self.runs.items():
            outcome = "" if run.status == "RUNNING" else run.tags.get(OUTCOME_TAG) or "failed"
            parent = run.tags.get("mlflow.parentRunId", "")
            key, start_time = run.tags[KEY_TAG], run.start_time
            yield attempt_of(key, run.tags, start_time=start_time, parent=parent, outcome=outcome, run_id=run_id)

    def run(self, key: str) -> StoredRun:
        """The run with this key."""
        return self.runs[self.known(key)]


def small_plan(runs: int) -> Plan:
    """A plan of a few cells on the CPU."""
    base = study.load_study("quickstart")
    single = study.replace(base, models={"test_resnet": {}}, datasets=["digits"], overrides=[], seeds=1)
    plan = build_plan(single, "cpu", {})
    return replace(plan, runs=plan.runs[:runs])
