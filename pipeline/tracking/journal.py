"""The journal: every record is appended here before it goes to the tracking store, and the store is made from it.

A file is a sequence of lines, each a JSON object: the CRC-32 of what follows it in the line, then the entry's fields,
as in `{"crc":"1c291ca3","kind":"close",...}`. Damaged lines are passed over; everything before and behind them comes
back. One process writes a file; any may read it while it grows. Numbers that are none stand as `NaN` and `Infinity`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import reading, writing
from pipeline.locks import open_lock
from pipeline.tracking.binary_journal import BINARY_MAGIC, read_frames
from pipeline.tracking.entries import Entry

MAX_LINE = 16 * 2**20  # bytes
_CHECKSUM_SIZE = len('{"crc":"01234567"')
_encoded = json.JSONEncoder(separators=(",", ":")).encode


class Journal:
    """An open journal file, written by this process alone; safe to use from several threads.

    Args:
        path: The file; made with its folders when absent. A damaged tail is cut off.

    Raises:
        OSError: It cannot be written, another process writes it, or an earlier version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open_lock(path)
        try:
            self._end = self._prepare()
        except OSError:
            os.close(self._file)
            raise

    def _prepare(self) -> int:
        """Locks the file for this process's life, which shows others that it lives; cuts a damaged tail off."""
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.pread(self._file, len(BINARY_MAGIC), 0) == BINARY_MAGIC:
            raise FileExistsError(f"{self.path} is of an earlier version")
        end = valid_end(self.path)
        if end == 0 and os.fstat(self._file).st_size:  # not even the first line is ours: keep a copy
            with reading(self.path) as source, writing(self.path.with_name(f"{self.path.name}.damaged")) as copy:
                shutil.copyfileobj(source, copy)
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must survive a power cut, too
        finally:
            os.close(folder)
        return end

    @property
    def end(self) -> int:
        """Offset behind the last entry, in bytes."""
        return self._end

    def append(self, *entries: Entry) -> int:
        """Appends a group of entries and waits until it is on the disk.

        A failed write (full disk) leaves the file as it was.

        Returns:
            The offset behind the group, in bytes.

        Raises:
            OSError: The disk refused.
            ValueError: An entry is too large.
        """
        lines = b"".join(line_of(entry) for entry in entries)
        with self._lock:
            if self._closed:
                raise OSError("the journal is closed")
            try:
                _write_all(self._file, lines, self._end)
                os.fsync(self._file)
            except OSError:
                # a group is written whole or not at all
                os.ftruncate(self._file, self._end)
                raise
            self._end += len(lines)
            return self._end

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._file)


def _write_all(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def line_of(entry: Entry) -> bytes:
    """An entry as a line of a journal, with its checksum."""
    fields = _encoded(entry)[1:].encode("ascii")
    rest = (b"," if entry else b"") + fields + b"\n"
    if len(rest) + _CHECKSUM_SIZE > MAX_LINE:
        raise ValueError(f"a journal entry of {len(fields)} bytes; at most {MAX_LINE}")
    return _checksum(rest) + rest


def _checksum(rest: bytes) -> bytes:
    return b'{"crc":"%08x"' % zlib.crc32(rest)


def _parsed(line: bytes) -> Entry | None:
    """The entry of an intact line."""
    rest = line[_CHECKSUM_SIZE:]
    if not line.endswith(b"\n") or line[:_CHECKSUM_SIZE] != _checksum(rest):
        return None
    try:
        return dict(json.loads(b"{" + rest.removeprefix(b",")))
    except (ValueError, RecursionError):
        return None


def read_entries(path: Path, start: int = 0) -> Iterator[tuple[Entry, int]]:
    """Reads intact entries; a missing or foreign file has none. Damage that nothing intact follows is not passed.

    Args:
        path: The journal, of this version or an earlier one.
        start: Offset in bytes of the first entry to read.

    Yields:
        Each entry with the offset behind it.
    """
    try:
        stream = path.open("rb")
    except OSError:
        return
    with stream:
        if stream.read(len(BINARY_MAGIC)) == BINARY_MAGIC:
            yield from read_frames(stream, start)
            return
        offset = max(start, 0)
        stream.seek(offset)
        while line := stream.readline(MAX_LINE):
            offset += len(line)
            entry = _parsed(line)
            if entry is not None:
                yield entry, offset


def damage(path: Path) -> list[int]:
    """Offsets in bytes of the lines that cannot be read, also of one that was never finished; not of old journals."""
    found: list[int] = []
    offset = 0
    with contextlib.suppress(OSError), reading(path) as stream:
        if stream.read(len(BINARY_MAGIC)) == BINARY_MAGIC:
            return []
        stream.seek(0)
        while line := stream.readline(MAX_LINE):
            if _parsed(line) is None:
                found.append(offset)
            offset += len(line)
    return found


def valid_end(path: Path) -> int:
    """Offset in bytes behind the last intact entry; 0 where there is none."""
    end = 0
    for _, end in read_entries(path):  # noqa: B007
        pass
    return end


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Keeps a journal for this process alone while the block runs.

    Yields:
        False when its writer, or another reader who replays it, lives.
    """
    try:
        # network file systems lock exclusively only what is open for writing
        file = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(file)
