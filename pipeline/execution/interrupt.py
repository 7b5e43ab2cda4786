"""Signals: the first one closes what runs, the second one leaves at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

from pipeline.errors import scrubbed
from pipeline.execution.listener import Listener


class Background:
    """Runs a function in a thread while something else goes on; `result` raises what it raised."""

    def __init__(self, function: Any) -> None:
        self._error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Waits; raises the function's error."""
        while self._thread.is_alive():
            self._thread.join(0.2)
        if self._error is not None:
            raise self._error


class Killable(Protocol):
    """What has workers."""

    def kill(self) -> None:
        """Kills them at once."""
        ...


class Stoppable(Protocol):
    """What can be asked to stop."""

    def stop(self) -> None:
        """Cancels what runs."""
        ...


@contextmanager
def interruptible(launcher: Killable, listener: Listener, controller: Callable[[], Stoppable | None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: running cells are cancelled and all rows closed. Second one: leave at once.

    Args:
        launcher: its workers are killed before leaving at once.
        listener: is told.
        controller: what to stop; None while nothing runs yet (then KeyboardInterrupt is raised).
    """
    seen = 0

    def handle(_number: int, _frame: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            launcher.kill()
            os._exit(130)
        running = controller()
        if running is None:
            raise KeyboardInterrupt
        running.stop()
        listener.note("interrupted: closing the running cells (once more to leave at once)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, cast(Any, handler))


def resume_command(arguments: Sequence[str] | None = None) -> str:
    """The command line that goes on where this one stopped, without passwords: it ends up in logs."""
    import shlex

    words = list(sys.argv[1:] if arguments is None else arguments)
    return shlex.join(["ablate", *(scrubbed(word) for word in words if word != "--fresh")])
