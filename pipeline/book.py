"""The book of one controller: writes the journal, has it delivered, and knows what is finished.

Everything that happens goes through here, from several threads: first to the journal, then, in the background, to
the tracking store.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import journal
from pipeline.delivery import Delivery, delivered_offset, replay
from pipeline.environment import host_provenance, without_credentials
from pipeline.errors import OutsideError
from pipeline.ownership import LocalClaims, alive, owner, settle
from pipeline.plan import Plan, PlannedRun
from pipeline.spec import Artifact, End, Metrics, Outcome, Record, Tags
from pipeline.tracker import HEARTBEAT_TAG, OWNER_TAG, Attempt, Tracker

STATUS: dict[str, str] = {
    "finished": "FINISHED",
    "oom": "FAILED",
    "failed": "FAILED",
    "timeout": "FAILED",
    "interrupted": "KILLED",
}
STORE_PATIENCE = 8.0


def now_ms(seconds: float | None = None) -> int:
    """Time as MLflow keeps it."""
    return int((time.time() if seconds is None else seconds) * 1000)


@dataclass
class Opened:
    """A run of this controller."""

    key: str
    run: PlannedRun
    work_dir: Path
    values: dict[str, float] = field(default_factory=dict)


class Book:
    """Journal, delivery and claims of one grid (or tuning) call.

    Args:
        tracker: the store and experiment.
        state_dir: folder of journals and claims (`mlruns`).

    Raises:
        OutsideError: the journal cannot be written.
    """

    def __init__(self, tracker: Tracker, state_dir: Path) -> None:
        self.tracker = tracker
        self.owner = owner()
        self._folder = state_dir / "journal"
        self._uri = without_credentials(tracker.uri)
        self._lock = threading.Lock()
        self._claims = LocalClaims(self._folder / "claims" / tracker.experiment)
        self.parent = ""
        self._store_seen = False
        self._index: dict[Path, tuple[int, bool, dict[str, Attempt]]] = {}
        path = self._folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{self.owner}-{uuid.uuid4().hex[:8]}.journal"
        try:
            self._journal = journal.Journal(path)
            self._append({"kind": "journal", "uri": self._uri, "experiment": tracker.experiment, "owner": self.owner})
        except OSError as error:
            raise OutsideError(
                f"journal {path.parent}: cannot be written ({error.strerror}); free space or access"
            ) from None
        self._delivery = Delivery(path, tracker, self._beat)
        self._delivery.notify(self._journal.end)

    def start(self) -> None:
        """Delivers what dead controllers left, then starts the background delivery."""
        for path in self.undelivered():
            with contextlib.suppress(Exception):  # an absent store is told later; `ablate sync` delivers then
                replay(path, self.tracker)
        self._delivery.start()

    def undelivered(self) -> list[Path]:
        """Journals of dead controllers for this store and experiment that are not wholly delivered."""
        found = []
        for path in sorted(self._folder.glob("*.journal")):
            head = next(journal.read(path), None)
            if head is None or path == self._journal.path or alive(str(head[0].get("owner", "")), None):
                continue
            same = (head[0].get("uri"), head[0].get("experiment")) == (self._uri, self.tracker.experiment)
            if same and delivered_offset(path) < journal.valid_end(path):
                found.append(path)
        return found

    def _append(self, *entries: journal.Entry) -> int:
        end = self._journal.append(*entries)
        if hasattr(self, "_delivery"):
            self._delivery.notify(end)
        return end

    def _beat(self) -> None:
        if self.parent:
            self.tracker.set_tag(self.parent, HEARTBEAT_TAG + self.owner, str(now_ms()))

    # -- what is known -----------------------------------------------------------------------------------------

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        """All tries of this experiment that store and journals know; the journals know better what has ended."""
        found: dict[str, Attempt] = {}
        if self._delivery.error is None:
            try:
                found = {attempt.key: attempt for attempt in self.tracker.attempts(digest)}
                self._store_seen = True
            except Exception:
                if not self._store_seen:
                    raise
        for path in self._folder.glob("*.journal"):
            for attempt in self._journaled(path):
                known = found.get(attempt.key)
                if digest is None or attempt.digest == digest:
                    found[attempt.key] = replace(attempt, run_id=known.run_id if known else "")
        return list(found.values())

    def _journaled(self, path: Path) -> Iterable[Attempt]:
        """A journal's attempts; only what was appended since the last look is read."""
        offset, mine, found = self._index.get(path, (0, True, {}))
        for entry, end in journal.read(path, offset):
            offset = end
            kind, key = entry.get("kind"), str(entry.get("key", ""))
            if kind == "journal":
                mine = (entry.get("uri"), entry.get("experiment")) == (self._uri, self.tracker.experiment)
            elif kind == "open":
                found[key] = _journaled_attempt(key, entry)
            elif kind == "close" and key in found:
                found[key] = replace(found[key], outcome=str(entry.get("outcome", "failed")))
            elif kind == "withdraw":
                found.pop(key, None)
        self._index[path] = (offset, mine, found)
        return list(found.values()) if mine else ()

    def _heartbeats(self) -> dict[str, float]:
        try:
            tags = self.tracker.tags(self.parent) if self.parent else {}
        except Exception:
            return {}
        beats = {name.removeprefix(HEARTBEAT_TAG): value for name, value in tags.items() if HEARTBEAT_TAG in name}
        return {name: int(value) / 1000 for name, value in beats.items() if value.isdigit()}

    def living(self, attempt: Attempt, beats: dict[str, float] | None = None) -> bool:
        """Whether an open attempt's controller lives."""
        beats = self._heartbeats() if beats is None else beats
        return not attempt.outcome and alive(attempt.owner, beats.get(attempt.owner))

    def close_dead(self, attempts: Iterable[Attempt]) -> int:
        """Closes open rows of dead controllers as interrupted; returns how many."""
        beats = self._heartbeats()
        dead = [
            a
            for a in attempts
            if not a.outcome and a.kind in ("run", "sentinel", "trial") and not self.living(a, beats)
        ]
        for attempt in dead:
            tags = {"ablate.outcome": "interrupted", "ablate.error": "its controller died"}
            self._append(_close(attempt.key, "interrupted", tags))
        return len(dead)

    # -- the parent run ------------------------------------------------------------------------------------------

    def open_parent(self, name: str, tags: dict[str, str], *, key: str = "") -> str:
        """Opens (or, given its key, opens again) the parent run."""
        self.parent = key or uuid.uuid4().hex
        tags = {"ablate.kind": "grid", **tags, **host_provenance(), "env.tracking_uri": self._uri}
        self._append(
            {
                "kind": "open",
                "key": self.parent,
                "parent": None,
                "name": name,
                "time": now_ms(),
                "tags": {**tags, OWNER_TAG: self.owner},
                "params": {},
            }
        )
        return self.parent

    def parent_values(self, values: dict[str, float], tags: dict[str, str]) -> None:
        """Puts aggregates and description on the parent run."""
        time_ms = now_ms()
        self._append(
            {"kind": "metrics", "key": self.parent, "time": time_ms, "step": 0, "values": values},
            {"kind": "tags", "key": self.parent, "values": tags},
        )

    def parent_artifact(self, path: Path, folder: str = "") -> None:
        """Logs a file to the parent run."""
        self._append({"kind": "artifact", "key": self.parent, "path": str(path.resolve()), "folder": folder})

    def close_parent(self, outcome: Outcome) -> None:
        """Closes the parent run."""
        self._append(_close(self.parent, outcome, {"ablate.outcome": outcome}))

    # -- runs ------------------------------------------------------------------------------------------------------

    def claim(self, run: PlannedRun, plan: Plan, work_dir: Path) -> Opened | None:
        """Claims a cell and opens its row; None when another controller has it or has finished it."""
        digest = run.spec.digest
        if not self._claims.take(digest):
            return None
        opened: Opened | None = None
        try:
            if self._settled_elsewhere(digest, ""):
                return None
            key = uuid.uuid4().hex
            end = self._append(_open(key, self.parent, run, plan, self.owner))
            if self._delivery.wait(end, STORE_PATIENCE) and not self._settle(key, digest):
                self._append({"kind": "withdraw", "key": key, "time": now_ms()})
                return None
            opened = Opened(key, run, work_dir)
            return opened
        finally:
            if opened is None:
                self._claims.release(digest)

    def _rivals(self, digest: str, mine: str) -> list[Attempt]:
        """Finished (or out-of-memory) and living tries of a cell under this parent, but mine."""
        beats = self._heartbeats()
        parents = {self.parent, self.tracker.run_id(self.parent) or ""}
        found = [a for a in self.tracker.attempts(digest) if a.key != mine and a.parent in parents]
        return [a for a in found if a.outcome in ("finished", "oom") or self.living(a, beats)]

    def _settled_elsewhere(self, digest: str, mine: str) -> bool:
        """Whether the cell is finished, by the journals of this folder or the store."""
        if self._delivery.error is not None:
            found = [a for a in self.attempts(digest) if a.key != mine and a.parent == self.parent]
            return any(a.outcome in ("finished", "oom") for a in found)
        try:
            parents = {self.parent, self.tracker.run_id(self.parent) or ""}
            return any(a.outcome in ("finished", "oom") and a.parent in parents for a in self.attempts(digest))
        except Exception:
            return False

    def _settle(self, key: str, digest: str) -> bool:
        def others() -> list[tuple[str, str]]:
            claims = []
            for attempt in self._rivals(digest, key):
                state = "held" if attempt.outcome else self.tracker.tags(attempt.key).get("ablate.claim", "held")
                claims.append((attempt.key, state))
            return claims

        try:
            return settle(key, others, lambda: self.tracker.set_tag(key, "ablate.claim", "held"))
        except Exception:  # the store went away meanwhile: the local lock stands
            return True

    def record(self, opened: Opened, record: Record) -> None:
        """Journals a record of a run; phases and progress are for the display only."""
        if isinstance(record, Metrics):
            if record.step is None:
                opened.values.update(record.values)
            entry = {"kind": "metrics", "step": record.step or 0, "time": now_ms(record.time), "values": record.values}
            self._append({**entry, "key": opened.key})
        elif isinstance(record, Tags):
            self._append({"kind": "tags", "key": opened.key, "values": record.values})
        elif isinstance(record, Artifact):
            path = (opened.work_dir / record.path).resolve()
            self._append({"kind": "artifact", "key": opened.key, "path": str(path), "folder": record.folder})

    def close(self, opened: Opened, end: End) -> None:
        """Closes a run with its outcome and gives the claim back."""
        tags = {"ablate.outcome": end.outcome, **({"ablate.error": end.error} if end.error else {})}
        offset = self._append(_close(opened.key, end.outcome, tags, end.time))
        # another controller may look as soon as the claim is free: the end should be in the store by then
        self._delivery.wait(offset, STORE_PATIENCE)
        self._claims.release(opened.run.spec.digest)

    def finish(self, timeout: float) -> bool:
        """Delivers what is left and closes the journal; False when `ablate sync` has to do the rest."""
        complete = self._delivery.stop(timeout)
        self._journal.close()
        return complete

    @property
    def error(self) -> str | None:
        """Why delivery does not get on at the moment."""
        return self._delivery.error


def _journaled_attempt(key: str, entry: journal.Entry) -> Attempt:
    tags = entry.get("tags", {})
    return Attempt(
        key=key,
        digest=str(tags.get("ablate.digest", "")),
        outcome="",
        owner=str(tags.get(OWNER_TAG, "")),
        kind=str(tags.get("ablate.kind", "")),
        parent=str(entry.get("parent") or ""),
        start_time=int(entry.get("time", 0)),
        command=str(tags.get("ablate.command", "")),
    )


def _close(key: str, outcome: str, tags: dict[str, str], seconds: float | None = None) -> journal.Entry:
    status = STATUS[outcome]
    return {"kind": "close", "key": key, "time": now_ms(seconds), "status": status, "outcome": outcome, "tags": tags}


def _open(key: str, parent: str, run: PlannedRun, plan: Plan, owner_name: str) -> journal.Entry:
    spec = run.spec
    on = {tag.partition("=")[0]: tag.partition("=")[2] for tag in spec.techniques}
    params: dict[str, Any] = {
        "model": spec.model,
        "dataset": spec.dataset,
        "seed": spec.seed,
        "techniques": spec.label,
        "device": spec.device,
        **{name: "on" if name in on else "off" for name in plan.study.techniques},
        **{f"level.{name}": value for name, value in on.items() if value},
        **{f"recipe.{name}": value for name, value in spec.recipe.model_dump(mode="json").items()},
    }
    tags = {
        "ablate.kind": run.kind,
        "ablate.digest": spec.digest,
        "ablate.block": str(run.block),
        "ablate.position": str(run.position),
        "ablate.claim": "pending",
        OWNER_TAG: owner_name,
        **host_provenance(),
    }
    entry = {"kind": "open", "key": key, "parent": parent, "name": spec.name, "time": now_ms()}
    return {**entry, "tags": tags, "params": params}
