"""Signals: the first one closes what runs, who insists leaves at once; the command line that goes on later."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.host import ENDING_SIGNALS
from pipeline.shown import redacted

if TYPE_CHECKING:
    from pipeline.execution.launcher import Launcher
    from pipeline.execution.listener import Listener

# Somebody who sends a second one of these does not want to wait. Others come in numbers by themselves: a terminal that
# closes sends SIGHUP and its shell another one, a batch system SIGUSR1 before its SIGTERM, SIGXCPU comes every second.
_INSISTING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
INTERRUPTED = 130


class Stoppable(Protocol):
    """What can be asked to stop."""

    def stop(self) -> None:
        """Cancels what runs."""
        ...


@contextmanager
def interruptible(launcher: Launcher, listener: Listener, controller: Callable[[], Stoppable | None]) -> Iterator[None]:
    """At the first signal that would end the process running cells are cancelled and all rows closed.

    A second SIGINT, SIGTERM or SIGQUIT leaves at once.

    Args:
        launcher: its workers are killed before leaving at once.
        listener: is told.
        controller: what to stop; None while nothing runs yet (then KeyboardInterrupt is raised).
    """

    def close() -> None:
        running = controller()
        if running is None:
            raise KeyboardInterrupt
        running.stop()
        listener.note("interrupted: closing the running cells (once more to leave at once)")

    with _handled(close, launcher.kill):
        yield


@contextmanager
def raised() -> Iterator[None]:
    """Every signal that would end the process raises KeyboardInterrupt; who insists leaves at once."""

    def stop() -> None:
        raise KeyboardInterrupt

    with _handled(stop, lambda: None):
        yield


@contextmanager
def _handled(first: Callable[[], None], insisting: Callable[[], None]) -> Iterator[None]:
    """Handles signals; outside the main thread, where Python sets no handlers, they stay as they are.

    Args:
        first: called at the first one.
        insisting: called before leaving at once.
    """
    seen, insisted = 0, 0

    def handle(number: int, _frame: Any) -> None:
        nonlocal seen, insisted
        seen += 1
        insisted += number in _INSISTING
        if insisted > 1:
            insisting()
            os._exit(INTERRUPTED)
        if seen == 1:
            first()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in taken()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, cast(Any, handler))


def taken() -> list[signal.Signals]:
    """The signals to handle: not those that whoever started this process had it ignore, as `nohup` does with SIGHUP."""
    always = (signal.SIGINT, signal.SIGTERM)  # a script's shell has all that it starts in the background ignore SIGINT
    return [each for each in ENDING_SIGNALS if each in always or signal.getsignal(each) != signal.SIG_IGN]


def resume_command(arguments: Sequence[str] | None = None) -> str:
    """Returns the command line that goes on where this one stopped, without passwords: it ends up in logs.

    Args:
        arguments: of the command; None for those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return command_line([word for word in words if word != "--fresh"])


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Returns the command as it was typed, without passwords: it is kept with what it measured.

    Args:
        arguments: of the command; None for those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["ablate", *(redacted(word) for word in words)])
