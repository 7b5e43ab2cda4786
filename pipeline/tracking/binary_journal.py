"""Journals of earlier versions, which are only read: frames of length, CRC-32 and JSON behind a first line."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.tracking.entries import Entry

BINARY_MAGIC = b"ablate-journal-1\n"
_MAX_PAYLOAD = 16 * 2**20  # bytes
_HEADER = struct.Struct("<II")  # length of the payload, its CRC-32


def read_frames(stream: BinaryIO, start: int) -> Iterator[tuple[Entry, int]]:
    """Reads intact entries up to the first damage.

    Args:
        stream: A file that begins with `BINARY_MAGIC`.
        start: Offset in bytes of the first frame to read.

    Yields:
        Each entry with the offset behind it.
    """
    offset = max(start, len(BINARY_MAGIC))
    stream.seek(offset)
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        payload = stream.read(length) if length <= _MAX_PAYLOAD else b""
        if len(payload) != length or zlib.crc32(payload) != checksum:
            return
        try:
            entry = json.loads(payload.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return
        if not isinstance(entry, dict):
            return
        offset += _HEADER.size + length
        yield entry, offset
