"""What the operating system has counted up to now. Two looks tell of the time between them exactly, short or long.

Of the CPU it counts what stood idle and what each process used: the rest is others'.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

# time in which nothing could run for want of memory: of this control group, else of the machine
PRESSURE = (Path("/sys/fs/cgroup/memory.pressure"), Path("/proc/pressure/memory"))
HEAT = "cpu[0-9]*/thermal_throttle/*_throttle_count"
WALKS = 3  # through the tree of processes: one that ends meanwhile is counted in its parent, or not yet
_FIELDS = slice(11, 15)  # of /proc/PID/stat, behind the name: utime, stime, and those of children that are gone


@dataclass(frozen=True)
class Counters:
    """What has been counted up to a moment.

    Attributes:
        time: of a clock that only goes on, s.
        cores: CPUs that this program may run on.
        idle: time of these CPUs in which nobody used them, s.
        stolen: time of these CPUs that the host gave to other guests, s.
        own: CPU time of this program's processes, those that are gone included, s.
        stalled: time in which nothing ran for want of memory, s.
        throttles: how often a CPU has slowed down from heat.
        family: this program's processes.
    """

    time: float
    cores: int
    idle: float
    stolen: float
    own: float
    stalled: float
    throttles: int
    family: frozenset[int]


def look() -> Counters:
    """Reads all counters."""
    cores, idle, stolen = _cpus()
    seconds = _family_seconds()
    return Counters(
        time.perf_counter(),
        cores,
        idle,
        stolen,
        sum(seconds.values()),
        _stalled_seconds(),
        sum(_number(path) for path in _heat_files()),
        frozenset(seconds),
    )


def family() -> frozenset[int]:
    """This process and all that descend from it."""
    return frozenset(_family_seconds())


def _cpus() -> tuple[int, float, float]:
    """Number, idle time and stolen time (s) of the CPUs that this program may run on."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) == os.cpu_count():
        times = [psutil.cpu_times()]
    else:  # others may use the rest as they like
        times = [each for number, each in enumerate(psutil.cpu_times(percpu=True)) if number in allowed]
    idle = sum(each.idle + getattr(each, "iowait", 0.0) for each in times)
    return len(allowed), idle, sum(getattr(each, "steal", 0.0) for each in times)


def _family_seconds() -> dict[int, float]:
    """CPU time of this process and of each that descends from it, s; that of one that is gone is its parent's."""
    for _ in range(WALKS):
        found: dict[int, float] = {}
        left, missed = [os.getpid()], False
        while left:
            pid = left.pop()
            try:
                # psutil would read the files of all processes of the machine
                tasks = os.scandir(f"/proc/{pid}/task")
                left += [int(child) for task in tasks for child in Path(task.path, "children").read_text().split()]
                found[pid] = _seconds(pid)
            except (OSError, ValueError):
                missed = True
        if not missed:
            break
    return found


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[_FIELDS])) / os.sysconf("SC_CLK_TCK")


def _stalled_seconds() -> float:
    for path in PRESSURE:
        try:
            for line in path.read_text().splitlines():
                if line.startswith("full "):
                    return int(line.rpartition("total=")[2]) / 1e6
        except (OSError, ValueError):
            continue
    return 0.0


@cache
def _heat_files() -> tuple[Path, ...]:
    return tuple(Path("/sys/devices/system/cpu").glob(HEAT))


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
