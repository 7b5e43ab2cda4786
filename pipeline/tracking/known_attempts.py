"""What one controller knows of all tries at its study: the store's, the journals', and who of their owners lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.design.names import FINAL_OUTCOMES
from pipeline.errors import OutsideError
from pipeline.tracking.attempts import PARENTS, Attempt, History
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.liveness import ENDED, Liveness
from pipeline.tracking.mlflow_errors import cause
from pipeline.tracking.mlflow_store import MlflowStore


class KnownAttempts:
    """Tries as store and journals know them; safe to use from several threads.

    Args:
        store: The store and experiment.
        folder: Folder of the journals.
        store_is_away: Whether delivery has found the store away, so that asking it would only cost time.
    """

    def __init__(self, store: MlflowStore, folder: Path, store_is_away: Callable[[], bool]) -> None:
        self._store = store
        self._store_is_away = store_is_away
        self._uri = without_credentials(store.uri)
        self._history = History(folder, self._uri, store.experiment)
        self._liveness = Liveness()
        self._store_seen = False

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        """All tries of this experiment, or at one cell.

        Args:
            digest: The cell's, if it is about one.

        Raises:
            OutsideError: The store has never answered.
        """
        delivered = self._history.delivered()
        stored: list[Attempt] | None = None
        if not (self._store_seen and self._store_is_away()):
            try:
                stored = self._store.attempts(digest)
                self._store_seen = True
            except Exception as error:  # MLflow, drivers and sockets each have their own
                if not self._store_seen:
                    raise OutsideError(f"tracking store {self._uri}: {cause(error)}") from error
        if stored is not None and digest is None:
            self.observe(beat for attempt in stored for beat in attempt.heartbeats)
        return self._history.merge(stored, delivered, digest)

    def observe(self, heartbeats: Iterable[tuple[str, str]]) -> None:
        """Takes note of heartbeats; a controller that has registered on several parents ended when its last did.

        Args:
            heartbeats: Controllers, each with its last heartbeat, as `attempts.heartbeats_of` gives them.
        """
        newest: dict[str, str] = {}
        for name, value in heartbeats:
            if newest.get(name, ENDED) == ENDED or (value != ENDED and value > newest[name]):
                newest[name] = value
        self._liveness.observe(newest)

    def is_at_work(self, controller: str) -> bool:
        """Whether a controller may still be at work."""
        return self._liveness.is_alive(controller)

    def is_alive(self, attempt: Attempt) -> bool:
        """Whether an open attempt's controller may still be at work on it."""
        if attempt.outcome:
            return False
        if attempt.kind in PARENTS:
            return any(self._liveness.is_alive(name) for name in (attempt.owner, *dict(attempt.heartbeats)))
        return self._liveness.is_alive(attempt.owner)

    def holds(self, attempt: Attempt) -> bool:
        """Whether an attempt keeps its cell from others: it has a final outcome, or its controller may be at work."""
        return attempt.outcome in FINAL_OUTCOMES or self.is_alive(attempt)

    def other_hosts_active(self) -> bool:
        """Whether controllers of other folders may be at work on this study; only the store keeps them apart."""
        return bool(set(self._liveness.living()) - self._history.owners())
