"""A lock file that one process holds at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path, patience: float) -> Iterator[bool]:
    """Holds a lock file while the block runs.

    Args:
        path: The file; made with its folders when absent, and left there.
        patience: The longest wait in s.

    Yields:
        Whether it was got.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    got = False
    try:
        while not got:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                got = True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)  # polled: a blocking call would keep signals waiting
        yield got
    finally:
        os.close(file)
