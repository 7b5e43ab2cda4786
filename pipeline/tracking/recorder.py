"""The recorder of one controller: what happens to its runs goes to the journal first, and from there to the store."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.design.names import CLAIM_TAG, ERROR_TAG, FINAL_OUTCOMES, HEARTBEAT_TAG, OUTCOME_TAG
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import Artifact, End, Metrics, Outcome, Record, Tags
from pipeline.errors import OutsideError
from pipeline.shown import redacted
from pipeline.tracking.attempts import Attempt
from pipeline.tracking.claims import LocalClaims, settle_claim
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.entries import (
    artifact_entry,
    close_entry,
    interrupted_entry,
    journal_entry,
    metrics_entry,
    now_ms,
    open_entry,
    tags_entry,
    withdraw_entry,
)
from pipeline.tracking.known_attempts import KnownAttempts
from pipeline.tracking.liveness import ENDED, owner
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.parent_run import ParentRun
from pipeline.tracking.refused import refused_path
from pipeline.tracking.replay import earlier_journals, is_left, replay

STORE_PATIENCE = 8.0  # s


@dataclass
class OpenRun:
    """A run of this controller.

    Attributes:
        key: Its own, made with the journal's entry.
        run: What is run.
        work_dir: Folder of its files.
        values: Metrics of its last epoch, and of its summary.
    """

    key: str
    run: PlannedRun
    work_dir: Path
    values: dict[str, float] = field(default_factory=dict)


class Recorder:
    """Parent run, claims and records of one grid (or tuning) call; safe to use from several threads.

    Args:
        store: The store and experiment.
        state_dir: Folder of journals and claims (`mlruns`).

    Attributes:
        parent: The run that this call's runs lie under.
        outbox: The call's journal and its delivery.

    Raises:
        OutsideError: The journal cannot be written.
    """

    def __init__(self, store: MlflowStore, state_dir: Path) -> None:
        self.store = store
        self._writer = MlflowWriter(store, state_dir)
        self._owner = owner()
        self._folder = state_dir / "journal"
        self._uri = without_credentials(store.uri)
        self._claims = LocalClaims(self._folder / "claims")
        self._open_rows: set[str] = set()
        self._refused: list[Path] = []  # files with what the store refused of earlier journals
        self._left: str | None = None
        path = self._folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{self._owner}-{uuid.uuid4().hex[:8]}.journal"
        try:
            self.outbox = Outbox(path, self._writer, lambda: self.parent.beat())
            self.outbox.append(journal_entry(self._uri, store.experiment, self._owner))
        except OSError as error:
            raise OutsideError(
                f"journal {path.parent}: cannot be written ({error.strerror}); free space or access"
            ) from None
        self._known = KnownAttempts(store, self._folder, lambda: self.outbox.error is not None)
        self.parent = ParentRun(store, self.outbox, self._known, self._owner, self._folder / "claims" / "parent")

    def start(self) -> None:
        """Delivers what dead controllers left, then starts the background delivery."""
        self.replay_abandoned()
        self.outbox.start()

    @property
    def error(self) -> str | None:
        """Why not everything is delivered, as far as it is known."""
        return self.outbox.error or self._left

    def replay_abandoned(self) -> None:
        """Delivers what dead controllers of this store and experiment left, and closes their rows."""
        for path in earlier_journals(self.outbox.path, self._uri, self.store.experiment):
            told = len(self.store.problems)
            with contextlib.suppress(Exception):  # an absent store is told later; `ablate sync` delivers then
                replay(path, self._writer)
            if len(self.store.problems) > told:
                self._refused.append(refused_path(path))

    def notices(self) -> list[str]:
        """What happened to the store meanwhile, in lines."""
        if not self.outbox.changes:
            return []
        return [f"tracking store {self._uri}: deleted, replaced or restored in mid-grid; this grid was delivered anew"]

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        """All tries of this experiment (or at one cell) that store and journals know.

        Args:
            digest: The cell's, if it is about one.

        Raises:
            OutsideError: The store has never answered.
        """
        return self._known.attempts(digest)

    def is_alive(self, attempt: Attempt) -> bool:
        """Whether an open attempt's controller may still be at work on it."""
        return self._known.is_alive(attempt)

    def close_orphans(self, attempts: Iterable[Attempt]) -> int:
        """Closes open rows of dead controllers as interrupted; returns how many."""
        return self.parent.close_orphans(attempts)

    def claim(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun | None:
        """Claims a cell and opens its row; None when another controller has it or has finished it.

        Args:
            run: The cell's run.
            plan: The plan that it is of.
            work_dir: Folder of its files.

        Raises:
            OSError: The journal refuses.
            OutsideError: The store has never answered.
        """
        digest = run.spec.digest
        if not self._claims.acquire(digest):
            return None
        opened: OpenRun | None = None
        try:
            if self._is_taken(digest):
                return None
            key = uuid.uuid4().hex
            self._open_rows.add(key)
            end = self.outbox.append(open_entry(key, self.parent.key, run, plan, self._owner))
            if not self._settled(key, digest, end):
                self._open_rows.discard(key)
                self.outbox.append(withdraw_entry(key))
                return None
            opened = OpenRun(key, run, work_dir)
            return opened
        finally:
            if opened is None:
                self._claims.release(digest)

    def open(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun:
        """Opens the row of a run that is this process's already (something else than claims keeps others away).

        Args:
            run: The run.
            plan: The plan that it is of.
            work_dir: Folder of its files.

        Raises:
            OSError: The journal refuses.
        """
        key = uuid.uuid4().hex
        self._open_rows.add(key)
        self.outbox.append(open_entry(key, self.parent.key, run, plan, self._owner, claim="held"))
        return OpenRun(key, run, work_dir)

    def _is_taken(self, digest: str) -> bool:
        """Whether a cell is finished or being run, or may be run by somebody who cannot be asked at the moment."""
        if self.outbox.error is not None and self._known.other_hosts_active():
            return True
        return any(self.parent.contains(a) and self._known.holds(a) for a in self._known.attempts(digest))

    def _settled(self, key: str, digest: str, end: int) -> bool:
        """Whether an opened row may be run.

        While the store is away only controllers of this folder are kept apart (by the local claim); if there are
        others, the cell has to wait.
        """

        def others() -> list[tuple[str, str]]:
            self.parent.heartbeats()
            stored = [a for a in self.store.attempts(digest) if a.key != key and self.parent.contains(a)]
            rivals = [a for a in stored if self._known.holds(a)]
            return [(a.key, "held" if a.outcome in FINAL_OUTCOMES else a.claim or "held") for a in rivals]

        deadline = time.monotonic() + STORE_PATIENCE
        while self.outbox.wait(STORE_PATIENCE, end):
            try:
                return settle_claim(key, others, lambda: self.store.set_tag(key, CLAIM_TAG, "held"))
            except Exception:  # one lost answer is no reason to hold
                if time.monotonic() > deadline:
                    break
                time.sleep(0.3)
        return not self._known.other_hosts_active()

    def record(self, opened: OpenRun, record: Record) -> None:
        """Journals a record of a run; phases and progress are for the display only.

        Args:
            opened: The run; its `values` are brought up to date.
            record: What the run tells.

        Raises:
            OSError: The journal refuses.
        """
        if isinstance(record, Metrics):
            opened.values.update(record.values)  # of the last epoch, and the summary
            time_ms = now_ms(record.time)
            self.outbox.append(metrics_entry(opened.key, record.values, step=record.step or 0, time_ms=time_ms))
        elif isinstance(record, Tags):
            self.outbox.append(tags_entry(opened.key, record.values))
        elif isinstance(record, Artifact):
            self.outbox.append(artifact_entry(opened.key, opened.work_dir / record.path, record.folder))

    def record_round(self, number: int, values: Iterable[tuple[OpenRun, Mapping[str, float]]]) -> None:
        """Journals what the cells of a round measured, in one piece: there are no half rounds.

        The store has it with whatever is journaled next: delivery would disturb the next round.

        Args:
            number: of the round.
            values: of each cell, by metric.

        Raises:
            OSError: The journal refuses.
        """
        self.outbox.keep(*(metrics_entry(opened.key, of_cell, step=number) for opened, of_cell in values))

    def close(self, opened: OpenRun, end: End, more: Mapping[str, str] | None = None) -> None:
        """Closes a run with its outcome and gives the claim back.

        Until this is delivered the store shows the row as open and its owner as alive: nobody takes the cell.

        Args:
            opened: The run.
            end: Its last record.
            more: Further tags.

        Raises:
            OSError: The journal refuses.
        """
        tags = {OUTCOME_TAG: end.outcome, **({ERROR_TAG: redacted(end.error)} if end.error else {}), **(more or {})}
        try:
            self.outbox.append(close_entry(opened.key, end.outcome, tags, end.time))
            self._open_rows.discard(opened.key)
        finally:
            self._claims.release(opened.run.spec.digest)

    def close_parent(self, outcome: Outcome) -> None:
        """Leaves the parent run, and closes it unless other controllers are at work on it; the last one does.

        Rows of this controller that are still open are closed first: something broke in the middle of their runs.

        Raises:
            OSError: The journal refuses.
        """
        for key in sorted(self._open_rows):
            self.outbox.append(interrupted_entry(key, "its controller could not go on"))
            self._open_rows.discard(key)
        self.parent.close(outcome)

    def emergency_close(self) -> None:
        """The journal refuses: closes what is open in the store itself, as far as it answers.

        The next call finds in the journal what it had taken.
        """
        with contextlib.suppress(Exception):  # without its heartbeat the parent is an orphan, unless others are at work
            self.store.set_tag(self.parent.key, HEARTBEAT_TAG + self._owner, ENDED)
        for key in [*self._open_rows, self.parent.key]:
            with contextlib.suppress(Exception):  # a row whose opening the journal refused is not in the store
                row = interrupted_entry(key, "the journal could not be written")
                self._writer.apply([{**row, "orphan": key == self.parent.key}])
        self.outbox.drain(0.0)

    def drain(self, timeout: float) -> bool:
        """Delivers what is left, for at most `timeout` s, and closes the journal.

        Returns:
            Whether everything is delivered, earlier calls' journals too; if not, `error` tells why.
        """
        delivered = self.outbox.drain(timeout)
        if self.store.problems:
            files = [*self._refused, *(path for path in [refused_path(self.outbox.path)] if path.exists())]
            kept = ", ".join(map(str, files)) or "the journal"
            self._left = f"{len(self.store.problems)} refused: {self.store.problems[0]}; kept in {kept}"
            return False
        if delivered:
            earlier = earlier_journals(self.outbox.path, self._uri, self.store.experiment)
            left = [path for path in earlier if is_left(path, self._writer)]
            if left:
                self._left = f"{len(left)} journal(s) of earlier calls, the first of them {left[0]}"
            delivered = not left
        return delivered
