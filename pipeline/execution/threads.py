"""Waiting for threads without keeping signals waiting."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")
_TURN_SECONDS = 0.2
LONG_SECONDS = 2.0  # after which people want to know what is waited for


def join(*threads: threading.Thread) -> None:
    """Waits until all threads have ended, and lets signal handlers run meanwhile.

    Python runs them in the main thread, between two of its instructions; a join without a time-out is one.
    """
    for thread in threads:
        while thread.is_alive():
            thread.join(_TURN_SECONDS)


@contextmanager
def told_if_long(tell: Callable[[str], None], what: str) -> Iterator[None]:
    """Says what is waited for, once that has taken long.

    Args:
        tell: is given the line.
        what: is waited for.
    """
    timer = threading.Timer(LONG_SECONDS, tell, (f"waiting for {what}",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class LongWait:
    """The same for what is looked at again and again until it has come.

    Args:
        tell: is given the line.
        what: is waited for.
    """

    def __init__(self, tell: Callable[[str], None], what: str) -> None:
        self._tell = tell
        self._what = what
        self._told_at: float | None = None

    def goes_on(self) -> None:
        """It has not come yet."""
        if self._told_at is None:
            self._told_at = time.monotonic() + LONG_SECONDS
        elif time.monotonic() >= self._told_at:
            self._told_at = math.inf
            self._tell(f"waiting for {self._what}")

    def is_over(self) -> None:
        """It has come; the next wait is another one."""
        self._told_at = None


class Background(Generic[Value]):
    """A function that runs in a thread of its own while something else goes on.

    Args:
        function: Called once, at once.
    """

    def __init__(self, function: Callable[[], Value]) -> None:
        self._function = function
        self._value: list[Value] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._function())
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Waits until the function has ended, in whatever way."""
        join(self._thread)

    def result(self) -> Value:
        """Waits for the function and returns its value.

        Raises:
            BaseException: What the function raised.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value[0]
