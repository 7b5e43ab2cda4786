"""Who runs what: identity and liveness of controllers, and claims, so that no cell runs twice.

Controllers on one host (or one shared folder) exclude each other with file locks, which the kernel drops when a
process dies. Controllers that share only a tracking store exclude each other with its runs, see `settle`.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

HEARTBEAT_LIFETIME = 60.0


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; tells a pid from its later reuse."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


@lru_cache(maxsize=1)
def _me() -> tuple[str, str]:
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()) or "host"
    return host, _start_ticks(os.getpid()) or str(int(time.time()))


def owner() -> str:
    """This process as `host.pid.start`."""
    host, start = _me()
    return f"{host}.{os.getpid()}.{start}"


def alive(name: str, heartbeat: float | None) -> bool:
    """Whether a controller lives: exactly on this host, by its last heartbeat (seconds since the epoch) elsewhere."""
    host, _, rest = name.partition(".")
    pid, _, start = rest.partition(".")
    if host == _me()[0] and pid.isdigit():
        return _start_ticks(int(pid)) == start
    return heartbeat is not None and time.time() - heartbeat < HEARTBEAT_LIFETIME


class LocalClaims:
    """Claims by locked files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def take(self, digest: str) -> bool:
        """Claims a cell; False when another process (or thread) holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self._folder / digest, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._held[digest] = file
        return True

    def release(self, digest: str) -> None:
        """Gives a claim back; the file stays, since removing it would let two processes lock two files."""
        file = self._held.pop(digest, None)
        if file is not None:
            os.close(file)


def settle(
    mine: str,
    others: Callable[[], list[tuple[str, str]]],
    hold: Callable[[], None],
    pause: float = 0.2,
    patience: float = 30.0,
) -> bool:
    """Decides which of several controllers gets a cell, through a store that only has create, read and update.

    Every controller first creates its own claim as `pending`, then reads the others'. It gives way to one that is
    `held` and to a pending one with a smaller key; it waits for pending ones with a larger key, which give way
    in turn unless they had read before this claim existed. So two can never hold at once: of two claims the one
    created later is read by nobody but its owner too late, and its owner sees the other (Lamport's bakery
    algorithm, Commun. ACM 17(8), 1974, with the key as the number).

    Args:
        mine: key of this controller's pending claim, already in the store.
        others: reads the other live claims, as (key, state).
        hold: marks this claim as held.
        pause: seconds between readings while waiting.
        patience: seconds after which a pending claim that does not move is taken for dead.

    Returns:
        Whether this controller holds the cell.
    """
    deadline = time.monotonic() + patience
    while True:
        found = others()
        if any(state == "held" or key < mine for key, state in found):
            return False
        if not found or time.monotonic() > deadline:
            hold()
            return True
        time.sleep(pause)
