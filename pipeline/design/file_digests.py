"""The content of many files in one digest, remembered while the files do not change. No torch and no numpy here."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pipeline.files import open_regular, reading
from pipeline.paths import write_atomically
from pipeline.progress import Tell

# a file that changed this recently may change again without another time stamp (two seconds is FAT's resolution)
UNSETTLED_NS = 2_000_000_000
_CHUNK = 64  # files of one task
_BLOCK = 1 << 18  # bytes of one read


def digests(root: Path, names: Sequence[str], tell: Tell | None = None) -> list[str]:
    """Computes the SHA-256 (hex) of each file, in order.

    Args:
        root: folder that the names are relative to.
        names: paths of the files.
        tell: called with the number of files that are done, now and then.

    Raises:
        OSError: a file cannot be read.
    """

    def digest(names: Sequence[str]) -> list[str]:
        return [_sha256(root / name) for name in names]

    found: list[str] = []
    # reading and hashing release the interpreter lock; a task for each of many small files would take longer than both
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for sums in pool.map(digest, (names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK))):
            found += sums
            if tell:
                tell(len(found))
    return found


def _sha256(path: Path) -> str:
    file = open_regular(path)
    try:
        digest = hashlib.sha256()
        while block := os.read(file, _BLOCK):
            digest.update(block)
    finally:
        os.close(file)
    return digest.hexdigest()


def recall(cache: Path, key: str) -> str | None:
    """Returns the digest remembered for `key`; None when there is none that is whole."""
    try:
        with reading(cache / f"{key}.json") as file:
            found = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    value = found.get("digest") if isinstance(found, dict) and found.get("key") == key else None
    return value if isinstance(value, str) and len(value) == 32 else None


def remember(cache: Path, key: str, digest: str, newest: int) -> None:
    """Remembers a digest, unless the files have changed just now; a cache that cannot be written is no error.

    Args:
        cache: folder; made if missing.
        key: changes with any change of the files' time stamps.
        digest: 32 hex digits.
        newest: latest time stamp of the files, ns since the epoch, before they were read.
    """
    if time.time_ns() - newest < UNSETTLED_NS:
        return
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(cache / f"{key}.json", json.dumps({"key": key, "digest": digest}))
