"""Who lives: the identity of controllers, and whether one may still be at work."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

HEARTBEAT_LIFETIME = 60.0  # s
ENDED = "ended"


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; tells a pid from its later reuse. None: it is dead.

    A killed process lives until its last thread has ended: one that hangs in `fsync` still holds the journal and all
    locks when the main thread is a zombie already, and nobody could take them over.
    """
    process = Path(f"/proc/{pid}")
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ended = fields[0] in ("Z", "X") and len(list((process / "task").iterdir())) < 2
    except OSError:
        return None
    return None if ended else fields[19]


@lru_cache(maxsize=1)
def _me() -> tuple[str, str]:
    """This host and this process's start. Containers may share a host name: boot and pid namespace tell them apart."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "host"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = ""
    host = f"{name}-{hashlib.sha256(boot.encode()).hexdigest()[:8]}"
    return host, _start_ticks(os.getpid()) or str(int(time.time()))


def owner() -> str:
    """This process as `host.pid.start`."""
    host, start = _me()
    return f"{host}.{os.getpid()}.{start}"


def _alive_here(name: str) -> bool | None:
    """Whether a controller of this host lives; None for one of another host."""
    host, _, rest = name.partition(".")
    pid, _, start = rest.partition(".")
    return _start_ticks(int(pid)) == start if host == _me()[0] and pid.isdigit() else None


def is_alive(name: str, heartbeat: float | None) -> bool:
    """Whether a controller seems to live; good enough to be shown, while decisions are `Liveness`'s.

    Args:
        name: The controller, see `owner`; one of this host is looked up among its processes.
        heartbeat: Its last one in s since the epoch, which decides for other hosts; None for none.
    """
    here = _alive_here(name)
    return here if here is not None else heartbeat is not None and time.time() - heartbeat < HEARTBEAT_LIFETIME


class Liveness:
    """Judges controllers of other hosts by whether their heartbeats move while this process watches.

    Clocks of hosts differ, and after an outage of the store everybody's last heartbeat is old: neither may make a
    living controller look dead, for then its cells would be run twice.

    Args:
        lifetime: Time without a new heartbeat, watched, after which a controller counts as dead, in s.
        clock: Gives a monotonic time in s.
    """

    def __init__(self, lifetime: float = HEARTBEAT_LIFETIME, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[str, float]] = {}
        self._last_look: float | None = None

    def observe(self, heartbeats: Mapping[str, str]) -> None:
        """Takes note of heartbeats just read from the store."""
        with self._lock:
            now = self._clock()
            if self._last_look is not None and now - self._last_look > self._lifetime / 2:
                # nobody watched for a while (outage, pause): every living controller gets its full time again
                self._seen = {name: (value, now) for name, (value, _) in self._seen.items()}
            self._last_look = now
            for name, value in heartbeats.items():
                if self._seen.get(name, (None, 0.0))[0] != value:
                    self._seen[name] = (value, now)

    def is_alive(self, name: str) -> bool:
        """Whether a controller may still be at work."""
        here = _alive_here(name)
        if here is not None:
            return here
        with self._lock:
            value, since = self._seen.setdefault(name, ("", self._clock()))
            return value != ENDED and (self._last_look or since) - since < self._lifetime

    def living(self) -> list[str]:
        """All controllers seen that may still be at work."""
        with self._lock:
            ended = {name for name, (value, _) in self._seen.items() if value == ENDED}
            names = list(self._seen)
        return [name for name in names if name not in ended and self.is_alive(name)]
