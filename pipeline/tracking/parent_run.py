"""The run that all runs of a grid or tuning lie under, from joining it to leaving it; controllers share it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipeline.design.names import CLAIM_TAG, COMMAND_TAG, HEARTBEAT_TAG, OUTCOME_TAG
from pipeline.design.plan import Plan
from pipeline.design.records import Outcome
from pipeline.errors import OutsideError
from pipeline.locks import exclusive
from pipeline.tracking.attempts import PARENTS, Attempt, heartbeats_of
from pipeline.tracking.claims import settle_claim
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.entries import (
    artifact_entry,
    close_entry,
    interrupted_entry,
    metrics_entry,
    now_ms,
    open_parent_entry,
    tags_entry,
    withdraw_entry,
)
from pipeline.tracking.known_attempts import KnownAttempts
from pipeline.tracking.liveness import ENDED
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.trusted import is_key

JOIN_PATIENCE = 60.0  # s
LEAVE_PATIENCE = 8.0  # s
Fits = Callable[[Attempt, Sequence[Attempt]], bool]  # of a parent run, and the tries under it


class ParentRun:
    """The parent run of one controller's call.

    Args:
        store: The store and experiment.
        outbox: Where entries go.
        known: What is known of other tries and controllers.
        owner: This controller, see `liveness.owner`.
        lock: Lock file that the controllers of one folder share.

    Attributes:
        key: Its own, made with the journal's entry; empty before `join`.
    """

    def __init__(self, store: MlflowStore, outbox: Outbox, known: KnownAttempts, owner: str, lock: Path) -> None:
        self.key = ""
        self._store = store
        self._outbox = outbox
        self._known = known
        self._owner = owner
        self._lock = lock
        self._uri = without_credentials(store.uri)
        self._joined = False

    def join(
        self, name: str, tags: dict[str, str], *, new: bool, fits: Fits | None = None, alone: bool = False
    ) -> list[Attempt]:
        """Joins the youngest parent run that fits, or opens one; closes what dead controllers left open.

        Controllers that start together on an empty store agree on one parent: those of one folder through a lock,
        others as for a cell (see `claims.settle_claim`).

        Args:
            name: Name of a new parent.
            tags: Tags of the parent; `ablate.command` tells grids from single runs.
            new: Open one in any case.
            fits: Whether this call's runs may lie under a parent of its command; None for under any.
            alone: Open one where none fits, without asking whether another controller is opening one, too.

        Returns:
            All attempts that were known before.

        Raises:
            OutsideError: The store does not answer.
        """
        with exclusive(self._lock, JOIN_PATIENCE):
            deadline = time.monotonic() + JOIN_PATIENCE
            while True:
                attempts = self._known.attempts()
                parent = None if new else youngest_parent(attempts, tags[COMMAND_TAG], fits)
                if parent is not None:
                    self._open(name, tags, key=parent.key)
                elif new or alone:
                    self._open(name, tags)
                elif not self._settled(name, tags, fits):
                    if time.monotonic() > deadline:
                        raise OutsideError("another controller is opening this study's parent run; try again")
                    time.sleep(0.5)
                    continue
                self.close_orphans(attempts)
                return attempts

    def _settled(self, name: str, tags: dict[str, str], fits: Fits | None) -> bool:
        """Opens a first parent; False (and withdrawn) when another controller's becomes the study's."""
        key = self._open(name, {**tags, CLAIM_TAG: "pending"})

        def others() -> list[tuple[str, str]]:
            attempts = [attempt for attempt in self._known.attempts() if attempt.key != key]
            parents = [a for a in attempts if a.kind in PARENTS and is_key(a.key) and a.command == tags[COMMAND_TAG]]
            rivals = [a for a in parents if self._known.is_alive(a) and (fits is None or fits(a, under(a, attempts)))]
            return [(a.key, a.claim or "held") for a in rivals]

        if not self._outbox.wait(JOIN_PATIENCE):
            raise OutsideError(f"tracking store {self._uri}: {self._outbox.error or 'does not answer'}")
        if settle_claim(key, others, lambda: self._store.set_tag(key, CLAIM_TAG, "held")):
            self._outbox.append(tags_entry(key, {CLAIM_TAG: "held"}))
            return True
        self._outbox.append(withdraw_entry(key))
        self.key, self._joined = "", False
        return False

    def _open(self, name: str, tags: dict[str, str], *, key: str = "") -> str:
        """Opens (or, given its key, opens again) the parent run."""
        self.key, self._joined = key or uuid.uuid4().hex, True
        self._outbox.append(open_parent_entry(self.key, name, tags, self._owner, self._uri))
        return self.key

    def close_orphans(self, attempts: Iterable[Attempt]) -> int:
        """Closes open rows of dead controllers as interrupted, but this run; returns how many there were."""
        orphans = [attempt for attempt in attempts if not attempt.outcome and not self._known.is_alive(attempt)]
        for attempt in orphans:
            if attempt.key != self.key:
                self._outbox.append(interrupted_entry(attempt.key, "its controller died"))
        return len(orphans)

    def contains(self, attempt: Attempt) -> bool:
        """Whether an attempt lies under this run."""
        return attempt.parent in (self.key, self._store.known_id(self.key))

    def beat(self) -> None:
        """Shows other hosts that this controller lives, and that the study is at work."""
        if self.key and self._joined:
            with contextlib.suppress(Exception):  # whether the store is away is what delivery finds out
                self._store.beat(self.key, HEARTBEAT_TAG + self._owner, str(now_ms()))

    def heartbeats(self) -> dict[str, str]:
        """Controllers that have registered on this run, each with its last heartbeat; noted as seen.

        Raises:
            Exception: As the store does when it is away.
        """
        heartbeats = heartbeats_of(self._store.tags(self.key))
        self._known.observe(heartbeats)
        return dict(heartbeats)

    def log_values(self, values: dict[str, float], tags: dict[str, str]) -> None:
        """Puts aggregates and description on the run."""
        self._outbox.append(metrics_entry(self.key, values), tags_entry(self.key, tags))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Logs a file to the run, into a folder of its artifacts."""
        self._outbox.append(artifact_entry(self.key, path, folder))

    def close(self, outcome: Outcome) -> None:
        """Leaves the run, and closes it unless other controllers are at work on it; the last one does."""
        with exclusive(self._lock, LEAVE_PATIENCE):
            self._joined = False
            end = self._outbox.append(tags_entry(self.key, {HEARTBEAT_TAG + self._owner: ENDED}))
            if not (self._outbox.wait(LEAVE_PATIENCE, end) and self._others_at_work()):
                self._outbox.append(close_entry(self.key, outcome, {OUTCOME_TAG: outcome}))

    def _others_at_work(self) -> bool:
        try:
            heartbeats = self.heartbeats()
        except Exception:  # the store is away: whoever goes on opens the parent again
            return False
        working = {name for name, value in heartbeats.items() if value != ENDED} - {self._owner}
        return any(self._known.is_at_work(name) for name in working)


def has_room_for(plan: Plan) -> Fits:
    """Says whether a plan's runs may lie under a parent run, so that two questions never share one.

    They may if it is of the same study, crosses the same, and no cell of the same name was tried under it with another
    recipe, or with other data.
    """
    mine = {run.name: run.spec.digest for run in plan.runs}
    factors = plan.factors

    def fits(parent: Attempt, tries: Sequence[Attempt]) -> bool:
        if parent.factors != factors or parent.study not in ("", plan.study.name):
            return False
        found: dict[str, set[str]] = {}
        for attempt in tries:
            found.setdefault(attempt.name, set()).add(attempt.digest)
        # beside the cell itself it may have been measured again (`--rerun-tainted`)
        return all(mine[name] in digests for name, digests in found.items() if name in mine)

    return fits


def has_finished(plan: Plan) -> Fits:
    """Says whether all of a plan's cells have finished under a parent run."""
    mine = {run.spec.digest for run in plan.runs}
    return lambda _, tries: mine <= {attempt.digest for attempt in tries if attempt.outcome == "finished"}


def under(parent: Attempt, attempts: Iterable[Attempt]) -> list[Attempt]:
    """The tries that lie under a parent run."""
    return [attempt for attempt in attempts if attempt.parent and attempt.parent in (parent.key, parent.run_id)]


def youngest_parent(attempts: Sequence[Attempt], command: str, fits: Fits | None) -> Attempt | None:
    """The youngest parent run of a command; not those that nobody has settled on, nor one that we have not made.

    Args:
        attempts: All of the experiment.
        command: `grid`, `run`, `speed` or `tune NAME`.
        fits: Whether a call's runs may lie under it; None for under any.
    """
    ours = [a for a in attempts if a.kind in PARENTS and is_key(a.key)]
    parents = [a for a in ours if a.command == command and a.claim != "pending"]
    ranked = sorted(parents, key=lambda attempt: (attempt.start_time, attempt.key), reverse=True)
    return next((one for one in ranked if fits is None or fits(one, under(one, attempts))), None)
