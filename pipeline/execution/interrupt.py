"""Signals: the first one closes what runs, the second one leaves at once; the command line that goes on later."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

from pipeline.execution.launcher import Launcher
from pipeline.execution.listener import Listener
from pipeline.shown import redacted


class Stoppable(Protocol):
    """What can be asked to stop."""

    def stop(self) -> None:
        """Cancels what runs."""
        ...


@contextmanager
def interruptible(launcher: Launcher, listener: Listener, controller: Callable[[], Stoppable | None]) -> Iterator[None]:
    """At the first SIGINT or SIGTERM running cells are cancelled and all rows closed; the second one leaves at once.

    Outside the main thread, where Python sets no handlers, signals stay as they are.

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
    """Returns the command line that goes on where this one stopped, without passwords: it ends up in logs.

    Args:
        arguments: of the command; None for those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return shlex.join(["ablate", *(redacted(word) for word in words if word != "--fresh")])
