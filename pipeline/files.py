"""How files are opened: what is written is ours and no link, what is read is a regular file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader, BufferedWriter
from pathlib import Path

PRIVATE = 0o600  # locks: who cannot open one cannot hold it
SHARED = 0o666  # everything else, less the umask


def open_own(path: Path, flags: int, *, mode: int = SHARED) -> int:
    """Opens a file that the program writes, creating it; never through a link, never anything but a regular file.

    Args:
        path: the file; its folder must be there.
        flags: `os.O_WRONLY | os.O_APPEND` and the like; `O_CREAT`, `O_NOFOLLOW` and `O_CLOEXEC` are added.
        mode: permissions of a new file, before the umask.

    Returns:
        The descriptor.

    Raises:
        OSError: it cannot be opened, or it is a link, a FIFO, a device, a folder.
    """
    # O_NONBLOCK: a FIFO that nobody reads would hold the program before it can be seen for what it is
    try:
        file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "a link, which is not followed: take it away", str(path)) from None
    try:
        _regular(file, path)
    except BaseException:
        os.close(file)
        raise
    os.set_blocking(file, True)
    return file


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BufferedWriter]:
    """Opens a file that the program writes, as `open_own` does, to write bytes from its start.

    Args:
        path: the file; its folder must be there.

    Raises:
        OSError: see `open_own`.
    """
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_TRUNC), "wb") as stream:
        yield stream


@contextlib.contextmanager
def appending(path: Path) -> Iterator[BufferedWriter]:
    """Opens a file that the program writes, as `open_own` does, to add bytes at its end.

    Args:
        path: the file; its folder must be there.

    Raises:
        OSError: see `open_own`.
    """
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab") as stream:
        yield stream


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BufferedReader]:
    """Opens a regular file, or a link to one, to read bytes; a FIFO or a device is refused instead of waited for.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    with os.fdopen(open_regular(path), "rb") as stream:
        yield stream


def open_regular(path: Path) -> int:
    """Opens a regular file, or a link to one, to read: where thousands are read, a stream of each takes longer.

    Args:
        path: the file.

    Returns:
        The descriptor.

    Raises:
        OSError: see `reading`.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _regular(file, path)
    except BaseException:
        os.close(file)
        raise
    return file


def _regular(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
