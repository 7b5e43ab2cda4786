"""What is left of a plan: cells that wait, cells that another controller has, and what came of the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pipeline.design.plan import PlannedRun
from pipeline.tracking.attempts import Attempt

LOST_TRIES = 5  # of a cell whose machine is lost, in one call
_CHOICE_SECONDS = 1.0  # after which a launcher is asked again what may start


class CellQueue:
    """The cells of one grid call, each in one of three states; thread-safe.

    Args:
        retries: how often, over all calls, a failed or timed-out cell is tried again.

    Attributes:
        outcomes: digest -> outcome of each cell that is done with, in this call or before it.
    """

    def __init__(self, retries: int) -> None:
        self.outcomes: dict[str, str] = {}
        self._retries = retries
        self._waiting: deque[PlannedRun] = deque()
        self._elsewhere: list[PlannedRun] = []
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()
        self._slot_freed = threading.Condition(self._lock)

    def add(self, runs: Iterable[PlannedRun], attempts: Iterable[Attempt]) -> None:
        """Queues cells behind those that wait, or takes their outcomes over from earlier calls.

        Args:
            runs: cells that are new here.
            attempts: all earlier tries at cells of this grid.
        """
        tried = _by_digest(attempts)
        with self._lock:
            for run in runs:
                self._sort(run, tried.get(run.spec.digest, []))

    def _sort(self, run: PlannedRun, tries: Sequence[Attempt]) -> None:
        outcomes = [attempt.outcome for attempt in tries]
        for final in ("finished", "oom"):
            if final in outcomes:
                self.outcomes[run.spec.digest] = final
                return
        failures = [outcome for outcome in outcomes if outcome in ("failed", "timeout")]
        if len(failures) > self._retries:
            self.outcomes[run.spec.digest] = failures[-1]
            return
        self._waiting.append(run)

    @property
    def waiting(self) -> int:
        """Cells that nobody has taken, as far as is known."""
        with self._lock:
            return len(self._waiting)

    @property
    def elsewhere(self) -> int:
        """Cells that another controller has taken, and may drop."""
        with self._lock:
            return len(self._elsewhere)

    def take(self, choose: Callable[[Sequence[PlannedRun]], int | None] | None = None) -> PlannedRun | None:
        """Takes the next cell; None when none waits, or when none of them may start for a moment.

        Args:
            choose: the index of the cell that may start, or None (see `ChoosesNext`); without it, it is the first.
        """
        with self._lock:
            if not self._waiting:
                return None
            if choose is None:
                return self._waiting.popleft()
            index = choose(self._waiting)
            if index is None:
                self._slot_freed.wait(_CHOICE_SECONDS)
                return None
            run = self._waiting[index]
            del self._waiting[index]
            return run

    def leave_to_others(self, run: PlannedRun) -> None:
        """Keeps in mind that another controller has a cell."""
        with self._lock:
            self._elsewhere.append(run)

    def check_others(self, attempts: Iterable[Attempt], living: Callable[[Attempt], bool]) -> None:
        """Takes outcomes of other controllers over, and queues the cells of those that died.

        Args:
            attempts: all tries as store and journals have them now.
            living: whether an open try's controller may still be at work on it.
        """
        tried = _by_digest(attempts)
        with self._lock:
            checked, self._elsewhere = self._elsewhere, []
        for run in checked:
            tries = tried.get(run.spec.digest, [])
            done = any(attempt.outcome in ("finished", "oom") for attempt in tries)
            lives = not done and any(living(attempt) for attempt in tries)
            with self._lock:
                if lives:
                    self._elsewhere.append(run)
                else:
                    self._sort(run, tries)

    def slot_freed(self) -> None:
        """Wakes a thread that waits in `take` for something that may start."""
        with self._lock:
            self._slot_freed.notify()

    def finish(self, run: PlannedRun, outcome: str) -> None:
        """Keeps what came of a cell."""
        with self._lock:
            self.outcomes[run.spec.digest] = outcome

    def requeue_lost(self, run: PlannedRun) -> bool:
        """Queues a cell whose machine was lost, in front of all others; False when that has happened too often."""
        with self._lock:
            lost = self._lost[run.spec.digest] = self._lost.get(run.spec.digest, 0) + 1
            if lost >= LOST_TRIES:
                return False
            self._waiting.appendleft(run)
            return True


def _by_digest(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    tried: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        tried.setdefault(attempt.digest, []).append(attempt)
    return tried
