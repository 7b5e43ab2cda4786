"""A lock file that one process holds at a time."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import PRIVATE, open_own
from pipeline.shown import printable

SILENT_SECONDS = 5.0  # after which whoever waits is told for what


@contextmanager
def exclusive(path: Path, patience: float) -> Iterator[bool]:
    """Holds a lock file while the block runs; who has waited for a while is told for what.

    Args:
        path: The file; made with its folders when absent, and left there. Nobody else can open it, and so hold it.
        patience: The longest wait in s.

    Yields:
        Whether it was got.

    Raises:
        OSError: It cannot be opened, it is a link, or there are no locks in this file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open_lock(path)
    began = time.monotonic()
    got = told = False
    try:
        while not got:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                got = True
            except BlockingIOError:
                waited = time.monotonic() - began
                if waited > patience:
                    break
                if waited > SILENT_SECONDS and not told:
                    told = True
                    text = f"ablate: waiting for another process, which holds {path}; {patience:.0f} s at most"
                    print(printable(text), file=sys.stderr, flush=True)
                time.sleep(0.05)  # polled: a blocking call would keep signals waiting
        yield got
    finally:
        os.close(file)


def open_lock(path: Path) -> int:
    """Opens a file that is locked, as one that nobody else may open; its content is left as it is.

    Args:
        path: the file; its folder must be there.

    Returns:
        The descriptor.

    Raises:
        OSError: see `files.open_own`.
    """
    file = open_own(path, os.O_RDWR, mode=PRIVATE)
    found = os.fstat(file)
    if found.st_mode & 0o077 and found.st_uid == os.geteuid():  # of an earlier version
        os.fchmod(file, PRIVATE)
    return file
