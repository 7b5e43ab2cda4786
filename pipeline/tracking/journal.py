"""The journal: every record is appended here before it goes to the tracking store, and the store is made from it.

A file is a sequence of frames: length (4 bytes, little endian), CRC-32 of the payload (4 bytes), payload (one JSON
object in UTF-8). A torn or damaged frame ends the readable part; everything before it comes back. One process
writes a file; any may read it while it grows.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.tracking.entries import Entry

JOURNAL_MAGIC = b"ablate-journal-1\n"
MAX_FRAME = 16 * 2**20
_HEADER = struct.Struct("<II")


class Journal:
    """An open journal file, written by this process alone; safe to use from several threads.

    Args:
        path: the file; made with its folders when absent. A damaged tail is cut off.

    Raises:
        OSError: it cannot be written, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._end = self._prepare()
        except OSError:
            os.close(self._file)
            raise

    def _prepare(self) -> int:
        """Locks the file for this process's life, which shows others that it lives; cuts a damaged tail off."""
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end = valid_end(self.path)
        if end == 0 and os.fstat(self._file).st_size:  # not even the first bytes are ours: keep a copy
            shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.damaged"))
        os.ftruncate(self._file, end)
        if end == 0:
            _write_all(self._file, JOURNAL_MAGIC, 0)
            end = len(JOURNAL_MAGIC)
        os.fsync(self._file)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must survive a power cut, too
        finally:
            os.close(folder)
        return end

    @property
    def end(self) -> int:
        """Offset behind the last entry."""
        return self._end

    def append(self, *entries: Entry) -> int:
        """Appends a group of entries and waits until it is on the disk.

        A failed write (full disk) leaves the file as it was.

        Returns:
            The offset behind the group.

        Raises:
            OSError: the disk refused.
        """
        frames = b"".join(_frame(entry) for entry in entries)
        with self._lock:
            if self._closed:
                raise OSError("the journal is closed")
            try:
                _write_all(self._file, frames, self._end)
                os.fsync(self._file)
            except OSError:
                # a group is written whole or not at all
                os.ftruncate(self._file, self._end)
                raise
            self._end += len(frames)
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


def _frame(entry: Entry) -> bytes:
    payload = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a journal entry of {len(payload)} bytes; at most {MAX_FRAME}")
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def read_entries(path: Path, start: int = 0) -> Iterator[tuple[Entry, int]]:
    """Reads intact entries from `start` on, each with the offset behind it; stops at the first damage.

    A missing or foreign file has no entries.
    """
    try:
        stream = path.open("rb")
    except OSError:
        return
    with stream:
        if stream.read(len(JOURNAL_MAGIC)) != JOURNAL_MAGIC:
            return
        offset = max(start, len(JOURNAL_MAGIC))
        stream.seek(offset)
        while True:
            entry, size = _read_frame(stream)
            if entry is None:
                return
            offset += size
            yield entry, offset


def _read_frame(stream: Any) -> tuple[Entry | None, int]:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None, 0
    length, checksum = _HEADER.unpack(header)
    if length > MAX_FRAME:
        return None, 0
    payload = stream.read(length)
    if len(payload) < length or zlib.crc32(payload) != checksum:
        return None, 0
    try:
        entry = json.loads(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None, 0
    return (entry, _HEADER.size + length) if isinstance(entry, dict) else (None, 0)


def valid_end(path: Path) -> int:
    """Offset behind the last intact entry; 0 for a missing or foreign file."""
    try:
        with path.open("rb") as stream:
            intact = stream.read(len(JOURNAL_MAGIC)) == JOURNAL_MAGIC
    except OSError:
        return 0
    end = len(JOURNAL_MAGIC) if intact else 0
    for _, offset in read_entries(path):
        end = offset
    return end


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Keeps a journal for this process alone while the block runs; yields False when its writer (or another
    reader who replays it) lives.
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
