"""How far something is that takes a while, on standard error: a line that renews itself, or one line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.shown import printable, redacted

Tell = Callable[[int], None]
_FIRST, _NEXT = 0.5, 0.2  # s after which a terminal is told, and is told again
_LOGGED = 2.0  # s after which anything else is told, once


@contextmanager
def long_task(text: str, total: int) -> Iterator[Tell]:
    """Tells of a task once it has taken longer than one waits without a word; a short one says nothing.

    Args:
        text: what is done.
        total: how many there are.

    Yields:
        To be called, by one thread, with how many are done.
    """
    stream = sys.stderr
    on_terminal = stream is not None and stream.isatty()
    text = printable(redacted(text))
    due = time.monotonic() + (_FIRST if on_terminal else _LOGGED)
    told = False

    def tell(done: int) -> None:
        nonlocal due, told
        if stream is None or time.monotonic() < due:
            return
        if on_terminal:
            print(f"\r{text} {done:,}/{total:,}", end="", file=stream, flush=True)
            due = time.monotonic() + _NEXT
        elif not told:
            print(f"{text} ({total:,})", file=stream, flush=True)
        told = True

    try:
        yield tell
    finally:
        if told and on_terminal:
            print("\r\x1b[K", end="", file=stream, flush=True)
