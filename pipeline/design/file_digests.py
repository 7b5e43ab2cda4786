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

from pipeline.files import reading
from pipeline.paths import write_atomically

# a file that changed this recently may change again without another time stamp (two seconds is FAT's resolution)
UNSETTLED_NS = 2_000_000_000


def digests(root: Path, names: Sequence[str]) -> list[str]:
    """Computes the SHA-256 (hex) of each file, in order.

    Args:
        root: folder that the names are relative to.
        names: paths of the files.

    Raises:
        OSError: a file cannot be read.
    """

    def digest(name: str) -> str:
        with reading(root / name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # reading and hashing release the interpreter lock
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(digest, names, chunksize=64))


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
