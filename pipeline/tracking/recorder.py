"""The book of one controller: writes the journal, has it delivered, and knows what is finished.

Everything that happens goes through here, from several threads: first to the journal, then, in the background, to
the tracking store.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.design.names import CLAIM_TAG, HEARTBEAT_TAG, OUTCOME_TAG, OWNER_TAG
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import Artifact, End, Metrics, Outcome, Record, Tags
from pipeline.errors import OutsideError, scrubbed
from pipeline.tracking import entries, journal
from pipeline.tracking.attempts import FINAL, PARENTS, Attempt, History, heartbeats_of
from pipeline.tracking.claims import LocalClaims, settle_claim
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.delivery import Delivery, replay
from pipeline.tracking.entries import close_entry, interrupted_entry, now_ms, open_entry
from pipeline.tracking.liveness import ENDED, Liveness, owner
from pipeline.tracking.locks import exclusive
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.provenance import host_provenance
from pipeline.tracking.writer import MlflowWriter

STORE_PATIENCE = 8.0
PARENT_PATIENCE = 60.0


@dataclass
class OpenRun:
    """A run of this controller."""

    key: str
    run: PlannedRun
    work_dir: Path
    values: dict[str, float] = field(default_factory=dict)


class Recorder:
    """Journal, delivery and claims of one grid (or tuning) call.

    Args:
        tracker: the store and experiment.
        state_dir: folder of journals and claims (`mlruns`).

    Raises:
        OutsideError: the journal cannot be written.
    """

    def __init__(self, tracker: MlflowStore, state_dir: Path) -> None:
        self.tracker = tracker
        self._writer = MlflowWriter(tracker)
        self.owner = owner()
        self.parent = ""
        self._folder = state_dir / "journal"
        self._uri = without_credentials(tracker.uri)
        self._claims = LocalClaims(self._folder / "claims")
        self._history = History(self._folder, self._uri, tracker.experiment)
        self._liveness = Liveness()
        self._store_seen = False
        self._parent_open = False
        self._open_rows: set[str] = set()
        path = self._folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{self.owner}-{uuid.uuid4().hex[:8]}.journal"
        try:
            self._journal = journal.Journal(path)
            self._delivery = Delivery(path, self._writer, self._beat)
            self._append({"kind": "journal", "uri": self._uri, "experiment": tracker.experiment, "owner": self.owner})
        except OSError as error:
            raise OutsideError(
                f"journal {path.parent}: cannot be written ({error.strerror}); free space or access"
            ) from None

    def start(self) -> None:
        """Delivers what dead controllers left, then starts the background delivery."""
        self.take_over()
        self._delivery.start()

    def take_over(self) -> None:
        """Delivers what dead controllers left, and closes their rows."""
        for path in self._of_this_store():
            with contextlib.suppress(Exception):  # an absent store is told later; `ablate sync` delivers then
                replay(path, self._writer)

    def _of_this_store(self) -> list[Path]:
        """The other journals of this store and experiment."""
        found = []
        for path in sorted(self._folder.glob("*.journal")):
            head = next(journal.read_entries(path), None)
            if head is None or path == self._journal.path:
                continue
            if (head[0].get("uri"), head[0].get("experiment")) == (self._uri, self.tracker.experiment):
                found.append(path)
        return found

    def _append(self, *entries: entries.Entry) -> int:
        end = self._journal.append(*entries)
        self._delivery.notify(end)
        return end

    def _beat(self) -> None:
        """Shows other hosts that this controller lives, and that the study is at work."""
        if self.parent and self._parent_open:
            with contextlib.suppress(Exception):  # whether the store is away is what delivery finds out
                self.tracker.beat(self.parent, HEARTBEAT_TAG + self.owner, str(now_ms()))

    # -- what is known -----------------------------------------------------------------------------------------

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        """All tries of this experiment (or at one cell) that store and journals know.

        Raises:
            OutsideError: the store has never answered.
        """
        delivered = self._history.delivered()
        stored: list[Attempt] | None = None
        if self._delivery.error is None or not self._store_seen:
            try:
                stored = self.tracker.attempts(digest)
                self._store_seen = True
            except Exception as error:  # MLflow, drivers and sockets each have their own
                if not self._store_seen:
                    raise OutsideError(f"tracking store {self._uri}: {scrubbed(str(error).strip())[:300]}") from error
        if stored is not None and digest is None:
            self._see(beat for attempt in stored for beat in attempt.heartbeats)
        return self._history.merge(stored, delivered, digest)

    def _see(self, heartbeats: Iterable[tuple[str, str]]) -> None:
        """Takes note of heartbeats; a controller that has registered on several parents ended when its last did."""
        newest: dict[str, str] = {}
        for name, value in heartbeats:
            if newest.get(name, ENDED) == ENDED or (value != ENDED and value > newest[name]):
                newest[name] = value
        self._liveness.see(newest)

    def living(self, attempt: Attempt) -> bool:
        """Whether an open attempt's controller may still be at work on it."""
        if attempt.outcome:
            return False
        if attempt.kind in PARENTS:
            return any(self._liveness.alive(name) for name in (attempt.owner, *dict(attempt.heartbeats)))
        return self._liveness.alive(attempt.owner)

    def close_dead(self, attempts: Iterable[Attempt]) -> int:
        """Closes open rows of dead controllers as interrupted; returns how many."""
        dead = [attempt for attempt in attempts if not attempt.outcome and not self.living(attempt)]
        for attempt in dead:
            if attempt.key != self.parent:
                self._append(interrupted_entry(attempt.key, "its controller died"))
        return len(dead)

    def _company(self) -> bool:
        """Whether controllers of other folders may be at work on this study; only the store keeps them apart."""
        return bool(set(self._liveness.living()) - self._history.owners())

    # -- the parent run ------------------------------------------------------------------------------------------

    def join(self, name: str, tags: dict[str, str], *, new: bool) -> list[Attempt]:
        """Joins the study's youngest parent run, or opens one; closes what dead controllers left open.

        Controllers that start together on an empty store agree on one parent: those of one folder through a lock,
        others as for a cell (see `settle_claim`).

        Args:
            name: of a new parent.
            tags: of the parent; `ablate.command` tells grids from single runs.
            new: open one in any case.

        Returns:
            All attempts that were known before.

        Raises:
            OutsideError: the store does not answer.
        """
        with exclusive(self._folder / "claims" / "parent", PARENT_PATIENCE):
            deadline = time.monotonic() + PARENT_PATIENCE
            while True:
                attempts = self.attempts()
                parent = None if new else _youngest(attempts, tags["ablate.command"])
                if parent is not None:
                    self.open_parent(name, tags, key=parent.key)
                elif new:
                    self.open_parent(name, tags)
                elif not self._found_parent(name, tags):
                    if time.monotonic() > deadline:
                        raise OutsideError("another controller is opening this study's parent run; try again")
                    time.sleep(0.5)
                    continue
                self.close_dead(attempts)
                return attempts

    def _found_parent(self, name: str, tags: dict[str, str]) -> bool:
        """Opens a first parent; False (and withdrawn) when another controller's becomes the study's."""
        key = self.open_parent(name, {**tags, CLAIM_TAG: "pending"})

        def others() -> list[tuple[str, str]]:
            rivals = [a for a in self.attempts() if a.key != key and a.kind in PARENTS and self.living(a)]
            return [(a.key, a.claim or "held") for a in rivals if a.command == tags["ablate.command"]]

        if not self._delivery.wait(self._journal.end, PARENT_PATIENCE):
            raise OutsideError(f"tracking store {self._uri}: {self._delivery.error or 'does not answer'}")
        if settle_claim(key, others, lambda: self.tracker.set_tag(key, CLAIM_TAG, "held")):
            self._append({"kind": "tags", "key": key, "values": {CLAIM_TAG: "held"}})
            return True
        self._append({"kind": "withdraw", "key": key, "time": now_ms()})
        self.parent, self._parent_open = "", False
        return False

    def open_parent(self, name: str, tags: dict[str, str], *, key: str = "") -> str:
        """Opens (or, given its key, opens again) the parent run."""
        self.parent, self._parent_open = key or uuid.uuid4().hex, True
        tags = {"ablate.kind": "grid", **tags, **host_provenance(), "env.tracking_uri": self._uri}
        tags |= {OWNER_TAG: self.owner, HEARTBEAT_TAG + self.owner: str(now_ms())}
        entry = {"kind": "open", "key": self.parent, "parent": None, "name": name, "time": now_ms()}
        self._append({**entry, "tags": tags, "params": {}})
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
        """Leaves the parent run, and closes it unless other controllers are at work on it; the last one does.

        Rows of this controller that are still open are closed first: something broke in the middle of their runs.
        """
        for key in sorted(self._open_rows):
            self._append(interrupted_entry(key, "its controller could not go on"))
            self._open_rows.discard(key)
        with exclusive(self._folder / "claims" / "parent", STORE_PATIENCE):
            self._parent_open = False
            ended = {HEARTBEAT_TAG + self.owner: ENDED}
            end = self._append({"kind": "tags", "key": self.parent, "values": ended})
            if not (self._delivery.wait(end, STORE_PATIENCE) and self._others_at_work()):
                self._append(close_entry(self.parent, outcome, {OUTCOME_TAG: outcome}))

    def _others_at_work(self) -> bool:
        try:
            heartbeats = dict(heartbeats_of(self.tracker.tags(self.parent)))
        except Exception:  # the store is away: whoever goes on opens the parent again
            return False
        self._see(heartbeats.items())
        working = {name for name, value in heartbeats.items() if value != ENDED} - {self.owner}
        return any(self._liveness.alive(name) for name in working)

    # -- runs ------------------------------------------------------------------------------------------------------

    def claim(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun | None:
        """Claims a cell and opens its row; None when another controller has it or has finished it."""
        digest = run.spec.digest
        if not self._claims.take(digest):
            return None
        opened: OpenRun | None = None
        try:
            if self._taken(digest):
                return None
            key = uuid.uuid4().hex
            self._open_rows.add(key)
            end = self._append(open_entry(key, self.parent, run, plan, self.owner))
            if not self._settle(key, digest, end):
                self._open_rows.discard(key)
                self._append({"kind": "withdraw", "key": key, "time": now_ms()})
                return None
            opened = OpenRun(key, run, work_dir)
            return opened
        finally:
            if opened is None:
                self._claims.release(digest)

    def open(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun:
        """Opens the row of a run that is this process's already (something else than claims keeps others away)."""
        key = uuid.uuid4().hex
        self._open_rows.add(key)
        self._append(open_entry(key, self.parent, run, plan, self.owner, claim="held"))
        return OpenRun(key, run, work_dir)

    def _rivals(self, digest: str, mine: str = "") -> list[Attempt]:
        """Finished (or out-of-memory) and living tries at a cell under this parent, but mine."""
        found = [a for a in self.attempts(digest) if a.key != mine and self.under_parent(a)]
        return [a for a in found if a.outcome in FINAL or self.living(a)]

    def under_parent(self, attempt: Attempt) -> bool:
        """Whether an attempt belongs to this grid's parent run."""
        return attempt.parent in (self.parent, self.tracker.known_id(self.parent))

    def _taken(self, digest: str) -> bool:
        """Whether a cell is finished or being run, or may be run by somebody who cannot be asked at the moment."""
        return (self._delivery.error is not None and self._company()) or bool(self._rivals(digest))

    def _settle(self, key: str, digest: str, end: int) -> bool:
        """Whether an opened row may be run. While the store is away only controllers of this folder are kept apart
        (by the local claim); if there are others, the cell has to wait.
        """

        def others() -> list[tuple[str, str]]:
            self._see(heartbeats_of(self.tracker.tags(self.parent)))
            stored = [a for a in self.tracker.attempts(digest) if a.key != key and self.under_parent(a)]
            return [(a.key, "held" if a.outcome in FINAL else a.claim or "held") for a in stored if self._counts(a)]

        deadline = time.monotonic() + STORE_PATIENCE
        while self._delivery.wait(end, STORE_PATIENCE):
            try:
                return settle_claim(key, others, lambda: self.tracker.set_tag(key, CLAIM_TAG, "held"))
            except Exception:  # one lost answer is no reason to hold
                if time.monotonic() > deadline:
                    break
                time.sleep(0.3)
        return not self._company()

    def _counts(self, attempt: Attempt) -> bool:
        return attempt.outcome in FINAL or self.living(attempt)

    def record(self, opened: OpenRun, record: Record) -> None:
        """Journals a record of a run; phases and progress are for the display only."""
        if isinstance(record, Metrics):
            opened.values.update(record.values)  # of the last epoch, and the summary
            entry = {"kind": "metrics", "step": record.step or 0, "time": now_ms(record.time), "values": record.values}
            self._append({**entry, "key": opened.key})
        elif isinstance(record, Tags):
            self._append({"kind": "tags", "key": opened.key, "values": record.values})
        elif isinstance(record, Artifact):
            path = (opened.work_dir / record.path).resolve()
            self._append({"kind": "artifact", "key": opened.key, "path": str(path), "folder": record.folder})

    def close(self, opened: OpenRun, end: End, more: Mapping[str, str] | None = None) -> None:
        """Closes a run with its outcome (and further tags) and gives the claim back.

        Until this is delivered the store shows the row as open and its owner as alive: nobody takes the cell.
        """
        tags = {OUTCOME_TAG: end.outcome, **({"ablate.error": end.error} if end.error else {}), **(more or {})}
        try:
            self._append(close_entry(opened.key, end.outcome, tags, end.time))
            self._open_rows.discard(opened.key)
        finally:
            self._claims.release(opened.run.spec.digest)

    def abandon(self) -> None:
        """The journal refuses: closes what is open in the store itself, as far as it answers. The next call finds
        in the journal what it had taken.
        """
        with contextlib.suppress(Exception):  # without its heartbeat the parent is an orphan, unless others are at work
            self.tracker.set_tag(self.parent, HEARTBEAT_TAG + self.owner, ENDED)
        for key in [*self._open_rows, self.parent]:
            with contextlib.suppress(Exception):  # a row whose opening the journal refused is not in the store
                row = interrupted_entry(key, "the journal could not be written")
                self._writer.apply([{**row, "orphan": key == self.parent}])
        self._delivery.stop(0.0)
        self._journal.close()

    def finish(self, timeout: float) -> bool:
        """Delivers what is left and closes the journal; False when `ablate sync` has to do the rest."""
        complete = self._delivery.stop(timeout)
        self._journal.close()
        return complete

    @property
    def error(self) -> str | None:
        """Why delivery does not get on at the moment."""
        return self._delivery.error


def _youngest(attempts: Iterable[Attempt], command: str) -> Attempt | None:
    """The youngest parent run of a command; not those that nobody has settled on."""
    parents = [a for a in attempts if a.kind in PARENTS and a.command == command and a.claim != "pending"]
    return max(parents, key=lambda attempt: (attempt.start_time, attempt.key), default=None)
