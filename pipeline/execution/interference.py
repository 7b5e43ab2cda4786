"""Is anything else using the machine before a block or a run starts? What is found taints its cells.

Nothing is refused and nothing waits: the measurement is made, and the report says which cells to doubt
(`--rerun-tainted` repeats them).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection

import psutil

from pipeline import nvml
from pipeline.design.spec import Device

BUSY_CORES = 0.35  # CPU use of others, in cores, from which a block is doubted
WATCH_SECONDS = 1.0
HOT_CELSIUS = 88  # from which a GPU is doubted
# NVML's reasons for lower clocks that distort a comparison: software and hardware slow-down, thermal and power brake
THROTTLES = {0x8: "hardware slow-down", 0x20: "thermal, software", 0x40: "thermal, hardware", 0x80: "power brake"}


def cpu_interference(seconds: float = WATCH_SECONDS) -> list[str]:
    """Watches for a moment whether others use the CPU while this program is idle.

    Args:
        seconds: how long to watch, in s.

    Returns:
        One sentence, or nothing when the machine is quiet.
    """
    cores = psutil.cpu_count() or 1
    mine = _own_seconds()
    before = psutil.cpu_times()
    began = time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - began
    after = psutil.cpu_times()
    idle = (after.idle + getattr(after, "iowait", 0.0)) - (before.idle + getattr(before, "iowait", 0.0))
    others = (cores * elapsed - idle - (_own_seconds() - mine)) / elapsed
    if others < BUSY_CORES:
        return []
    return [f"other processes used {others:.1f} of {cores} cores before the block"]


def _own_seconds() -> float:
    """CPU time of this process and its descendants (fork server, workers)."""
    total = 0.0
    try:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    except psutil.Error:
        pass
    return total


def gpu_interference(uuids: list[str] | None = None, strangers: Collection[int] = ()) -> list[str]:
    """Looks for co-tenants, throttling and heat of the GPUs that are used.

    In a container NVML may tell the host's numbers of processes, by which this program's own workers cannot be
    recognised: a number that no process has here is a co-tenant only if it is among `strangers`.

    Args:
        uuids: GPUs to look at; None for all visible ones.
        strangers: processes that were there before this program's first run.

    Returns:
        Sentences, none for GPUs that are quiet.
    """
    family = _family()
    doubts = []
    for gpu in nvml.gpus():
        if uuids is not None and gpu.uuid not in uuids:
            continue
        foreign = [pid for pid in gpu.tenants if pid in strangers or (pid not in family and psutil.pid_exists(pid))]
        if foreign:
            doubts.append(f"GPU {gpu.index} is also used by process {', '.join(map(str, foreign))}")
        reasons = gpu.throttle_reasons or 0
        named = [name for bit, name in THROTTLES.items() if reasons & bit]
        if named:
            doubts.append(f"GPU {gpu.index} is throttled ({', '.join(named)})")
        if gpu.temperature is not None and gpu.temperature >= HOT_CELSIUS:
            doubts.append(f"GPU {gpu.index} is at {gpu.temperature} degrees Celsius")
    return doubts


def strangers() -> frozenset[int]:
    """Processes on the GPUs that are not this program's, asked before its first run, when it has none there itself."""
    family = _family()
    return frozenset(pid for gpu in nvml.gpus() for pid in gpu.tenants if pid not in family)


def _family() -> set[int]:
    try:
        return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    except psutil.Error:
        return {os.getpid()}


class InterferenceCheck:
    """Looks before each block and each run.

    Args:
        device: GPUs are looked at only when runs use them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._blocks: dict[int, list[str]] = {}
        self._strangers: frozenset[int] | None = None

    def before_run(self, block: int, *, alone: bool) -> list[str]:
        """Returns reasons to doubt a run that starts now, each a sentence.

        Args:
            block: its block; the CPU is watched once, before the first run of each.
            alone: no other run of this program is going on (CPU use could not be told apart).
        """
        if block not in self._blocks:
            self._blocks[block] = cpu_interference() if alone else []
        if self._device != "cuda":
            return self._blocks[block]
        if self._strangers is None:
            self._strangers = strangers()
        return [*self._blocks[block], *gpu_interference(strangers=self._strangers)]
