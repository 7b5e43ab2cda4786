"""The threads that take runs through a launcher, as many as it has slots: what grid and search have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import AblateError
from pipeline.execution.launcher import Launcher
from pipeline.execution.threads import join


class RunPool:
    """Threads that each take one run after the other to its end.

    Args:
        launcher: Has the slots, and is cancelled when the pool stops.

    Attributes:
        broken: Why everything ended before it was done, in one line; None while nothing is wrong.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.broken: str | None = None
        self._launcher = launcher
        self._threads = 0
        self._running = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, work: Callable[[], None], name: str) -> None:
        """Runs `work` in one thread for each slot, until all have returned.

        An error of one of them ends all: it is kept in `broken`, and the pool stops. One that is no fault of the
        outside world is raised too, in its thread, which prints it.

        Args:
            work: Takes runs until there are none, or `stopped`, or `surplus` says so.
            name: Begins the threads' names.
        """
        self._threads = self._launcher.jobs
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"{name}-{number}", daemon=True)
            for number in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        join(*threads)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:  # the journal refuses: without it nothing more may be run
            self.give_up(f"journal: {error.strerror or error}")
        except AblateError as error:  # the launcher cannot go on
            self.give_up(str(error))
        except Exception as error:
            self.give_up(f"{type(error).__name__}: {error}")
            raise

    def stop(self) -> None:
        """Ends the pool: runs are cancelled, and no further one is to be taken."""
        self._stop.set()
        self._launcher.cancel()

    def give_up(self, reason: str) -> None:
        """Ends the pool because of an error; the first one is the one that is told."""
        self.broken = self.broken or reason
        self.stop()

    @property
    def stopped(self) -> bool:
        """Whether the pool was ended, by whomever."""
        return self._stop.is_set()

    @property
    def interrupted(self) -> bool:
        """Whether the pool was ended because somebody wanted so, and not because of an error."""
        return self.stopped and self.broken is None

    @property
    def idle(self) -> bool:
        """Whether no run goes on."""
        return self._running == 0

    def pause(self, seconds: float) -> None:
        """Waits, but not beyond the pool's end."""
        self._stop.wait(seconds)

    def surplus(self) -> bool:
        """Says whether there are more threads than slots, since a device was lost: the one that asks is to return."""
        with self._lock:
            surplus = self._threads > self._launcher.jobs
            self._threads -= surplus
        return surplus

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts a run while it goes on."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
