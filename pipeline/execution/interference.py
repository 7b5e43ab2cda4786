"""Is anything else using the machine while a run is measured? It is watched from the first step to the last.

Nothing is refused and nothing waits: the measurement is made, and the report says which cells to doubt
(`--rerun-tainted` repeats them).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psutil

from pipeline import nvml
from pipeline.design.names import TAINTED_TAG
from pipeline.design.records import Phase, Record, Tags
from pipeline.design.spec import Device
from pipeline.execution.counters import Counters, family, look

# CPU use of others, in cores, from which a stretch of time is disturbed. A desktop at rest uses 0.05 to 0.2, and a
# stretch of 0.3 s is known to 0.1: the kernel counts hundredths of seconds, for each process.
BUSY_CORES = 0.35
CERTAIN_SECONDS = 0.05  # CPU time of others from which it is more than the counters' steps
# ... if it is this part of all cores, which share caches, memory and clocks, or if less than this part stood idle, so
# that a run had to wait for one. With two cores the first always holds; with 128 one busy core disturbs nobody.
BUSY_PART = 0.1
# Part of a run that may be disturbed before the run is tainted. Where all cores are taken a run gets half of what it
# wants: 5 % of such time make it 3 to 5 % longer, which is less than the runs of a grid scatter by themselves.
BUSY_TIME = 0.05
# Part of a run in which nothing could run for want of memory: it is lost in full, and reading back comes on top.
STALLED_TIME = 0.01
WATCH_SECONDS = 1.0  # between two looks ...
WATCH_COST = 0.001  # ... or more, so that looks use no more than this part of a core
HOT_CELSIUS = 88  # from which a GPU is doubted
# NVML's reasons for lower clocks that distort a comparison: software and hardware slow-down, thermal and power brake
THROTTLES = {0x8: "hardware slow-down", 0x20: "thermal, software", 0x40: "thermal, hardware", 0x80: "power brake"}


@dataclass(frozen=True)
class Stretch:
    """What happened between two looks.

    Attributes:
        seconds: how long it was, s.
        cores: CPUs that this program may run on.
        others: cores that others used on average, other guests of the host included.
        stolen: the part of it that the host gave to other guests.
        idle: cores that nobody used.
        stalled: time in which nothing ran for want of memory, s.
        throttles: how often a CPU slowed down from heat.
        gpus: what was seen of the GPUs at its end, a sentence without its end each.
    """

    seconds: float
    cores: int
    others: float
    stolen: float = 0.0
    idle: float = 0.0
    stalled: float = 0.0
    throttles: int = 0
    gpus: tuple[str, ...] = ()

    @property
    def is_busy(self) -> bool:
        """Whether others used so much of the CPUs that a run may have taken longer."""
        part = BUSY_PART * self.cores
        certain = self.others * self.seconds >= CERTAIN_SECONDS
        return certain and self.others >= BUSY_CORES and (self.others >= part or self.idle < part)


def stretch(before: Counters, after: Counters, gpus: Sequence[str] = ()) -> Stretch:
    """Returns what happened between two looks.

    Args:
        before: the earlier one.
        after: the later one.
        gpus: what was seen of the GPUs.
    """
    seconds = max(after.time - before.time, 1e-6)
    idle = (after.idle - before.idle) / seconds
    own = (after.own - before.own) / seconds
    return Stretch(
        seconds,
        after.cores,
        max(after.cores - idle - own, 0.0),
        (after.stolen - before.stolen) / seconds,
        idle,
        after.stalled - before.stalled,
        after.throttles - before.throttles,
        tuple(gpus),
    )


@dataclass
class Tally:
    """What has happened in the stretches of a run, or in rounds.

    Args:
        unit: what a stretch is counted in: `s`, or `rounds`, each of which counts as one.
    """

    unit: str = "s"
    _all: float = 0.0
    _busy: float = 0.0
    _seconds: float = 0.0
    _core_seconds: float = 0.0
    _stolen_seconds: float = 0.0
    _cores: int = 0
    _first: float = 0.0
    _watched: float = 0.0
    _stalled: float = 0.0
    _throttles: int = 0
    _gpus: dict[str, float] = field(default_factory=dict)

    def add(self, each: Stretch) -> None:
        """Adds a stretch that has just ended."""
        weight = each.seconds if self.unit == "s" else 1.0
        self._all += weight
        self._watched += each.seconds
        self._stalled += each.stalled
        self._throttles += each.throttles
        for words in each.gpus:
            self._gpus[words] = self._gpus.get(words, 0.0) + weight
        if each.is_busy:
            self._first = self._first or time.time() - each.seconds
            self._busy += weight
            self._seconds += each.seconds
            self._core_seconds += each.others * each.seconds
            self._stolen_seconds += each.stolen * each.seconds
            self._cores = each.cores

    def reasons(self) -> list[str]:
        """Returns reasons to doubt what was measured meanwhile, each a sentence; none on a quiet machine."""
        found = []
        if self._busy > BUSY_TIME * self._all:
            who = "other guests of the host" if self._stolen_seconds > self._core_seconds / 2 else "other processes"
            used = f"{who} used {self._core_seconds / self._seconds:.1f} of {self._cores} cores"
            first = time.strftime("%H:%M:%S", time.gmtime(self._first))
            found.append(f"{used} during {self._part(self._busy)}, first at {first} UTC")
        if self._stalled > STALLED_TIME * self._watched:
            found.append(f"memory was short: nothing ran for {self._stalled:.1f} of {self._watched:.1f} s")
        if self._throttles:
            found.append(f"the CPU was hot and slowed down {self._throttles} times")
        found += [
            f"{words} during {self._part(many)}" for words, many in self._gpus.items() if many > BUSY_TIME * self._all
        ]
        return found

    def _part(self, many: float) -> str:
        if self.unit == "s" and self._all < 10:
            return f"{many:.1f} of {self._all:.1f} s"
        return f"{many:.0f} of {self._all:.0f} {self.unit}"


def cpu_interference(seconds: float = WATCH_SECONDS) -> list[str]:
    """Watches for a moment whether others use the CPU while this program is idle.

    Args:
        seconds: how long to watch, in s.

    Returns:
        One sentence, or nothing when the machine is quiet.
    """
    before = look()
    time.sleep(seconds)
    seen = stretch(before, look())
    return [f"other processes used {seen.others:.1f} of {seen.cores} cores before the run"] if seen.is_busy else []


def gpu_interference(
    uuids: list[str] | None = None, strangers: Collection[int] = (), own: Collection[int] | None = None
) -> list[str]:
    """Looks for co-tenants, throttling and heat of the GPUs that are used.

    In a container NVML may tell the host's numbers of processes, by which this program's own workers cannot be
    recognised: a number that no process has here is a co-tenant only if it is among `strangers`.

    Args:
        uuids: GPUs to look at; None for all visible ones.
        strangers: processes that were there before this program's first run.
        own: this program's processes; None has them looked for.

    Returns:
        Sentences, none for GPUs that are quiet.
    """
    doubts = []
    mine = family() if own is None else own
    for gpu in nvml.gpus():
        if uuids is not None and gpu.uuid not in uuids:
            continue
        foreign = [pid for pid in gpu.tenants if pid in strangers or (pid not in mine and psutil.pid_exists(pid))]
        if foreign:
            doubts.append(f"GPU {gpu.index} was also used by process {', '.join(map(str, foreign))}")
        reasons = gpu.throttle_reasons or 0
        named = [name for bit, name in THROTTLES.items() if reasons & bit]
        if named:
            doubts.append(f"GPU {gpu.index} was throttled ({', '.join(named)})")
        if gpu.temperature is not None and gpu.temperature >= HOT_CELSIUS:
            doubts.append(f"GPU {gpu.index} was at {HOT_CELSIUS} degrees Celsius or more")
    return doubts


class MachineWatch:
    """Watches the machine through runs and rounds; to be made before this program's first run.

    Args:
        device: GPUs are looked at only when runs use them.
        looks: reads the counters.
    """

    def __init__(self, device: Device, looks: Callable[[], Counters] = look) -> None:
        self._device = device
        self._looks = looks
        # whoever is on the GPUs before this program is there
        self._strangers: frozenset[int] = frozenset()
        if device == "cuda":
            self._strangers = frozenset(pid for gpu in nvml.gpus() for pid in gpu.tenants) - family()
        self._gpus: tuple[str, ...] = ()
        self._gpus_until = 0.0
        self._open: dict[int, tuple[Tally, Counters]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watched(self, records: Generator[Record, None, None]) -> Generator[Record, None, None]:
        """Passes a run's records on; where its training was disturbed, a tag with the reasons follows.

        Args:
            records: what the run tells; closed with this.
        """
        tally: Tally | None = None
        try:
            with closing(records):
                for record in records:
                    if isinstance(record, Phase) and tally is not None:  # training is over
                        self._end(tally)
                        reasons, tally = tally.reasons(), None
                        if reasons:
                            yield Tags(time=time.time(), values={TAINTED_TAG: "; ".join(reasons)})
                    elif isinstance(record, Phase) and record.name == "train":
                        tally = self._begin()
                    yield record
        finally:
            if tally is not None:
                self._end(tally)

    def look(self) -> Counters:
        """Begins a stretch, which `since` ends."""
        return self._looks()

    def since(self, before: Counters) -> Stretch:
        """Returns what has happened since a look."""
        now = self._looks()
        return stretch(before, now, self._gpus_seen(now))

    def _gpus_seen(self, now: Counters) -> tuple[str, ...]:
        """What is seen of the GPUs, of which NVML is not asked more often than it may cost."""
        if self._device == "cuda" and now.time >= self._gpus_until:
            began = time.thread_time()
            self._gpus = tuple(gpu_interference(strangers=self._strangers, own=now.family))
            self._gpus_until = now.time + _pause(time.thread_time() - began)
        return self._gpus

    def _begin(self) -> Tally:
        tally = Tally()
        with self._lock:
            self._open[id(tally)] = tally, self._looks()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True, name="machine watch")
                self._thread.start()
        return tally

    def _end(self, tally: Tally) -> None:
        with self._lock:
            self._add(tally, self._looks())
            del self._open[id(tally)]

    def _add(self, tally: Tally, now: Counters) -> None:
        before = self._open[id(tally)][1]
        tally.add(stretch(before, now, self._gpus_seen(now)))
        self._open[id(tally)] = tally, now

    def _watch(self) -> None:
        """Looks at times while runs are trained: the life of a thread of its own."""
        pause = WATCH_SECONDS
        while True:
            time.sleep(pause)
            with self._lock:
                if not self._open:
                    self._thread = None
                    return
                began = time.thread_time()
                now = self._looks()
                for tally, _ in list(self._open.values()):
                    self._add(tally, now)
                pause = _pause(time.thread_time() - began)


def _pause(cost: float) -> float:
    """How long to wait after a look that took so much CPU time, s."""
    return max(WATCH_SECONDS, cost / WATCH_COST)
