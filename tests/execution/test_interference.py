"""Whether the machine is quiet while a run is trained: what taints it, and what does not."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from pipeline import nvml
from pipeline.design.records import End, Phase, Record, Tags
from pipeline.execution import interference
from pipeline.execution.counters import Counters
from pipeline.execution.interference import MachineWatch, Tally, stretch


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[bytes]]:
    # a session of its own, started by a shell that ends: no descendant of this process any more
    script = "import os,sys,time\nif os.fork(): sys.exit()\nend=time.time()+20\nprint(os.getpid(), flush=True)\n"
    script += "while time.time()<end: pass"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.wait()
    yield process
    psutil.Process(pid).kill()


QUIET = Counters(time=0.0, cores=2, idle=0.0, stolen=0.0, own=0.0, stalled=0.0, throttles=0, family=frozenset())


def later(before: Counters, seconds: float, *, own: float = 0.0, others: float = 0.0, **more: Any) -> Counters:
    """A look some seconds after another, with the CPU used so (cores)."""
    idle = before.idle + seconds * (before.cores - own - others)
    return replace(before, time=before.time + seconds, idle=idle, own=before.own + seconds * own, **more)


class Looks:
    """Counters that say what a test wants, one look after the other; the last one stays."""

    def __init__(self, *looks: Counters) -> None:
        self.left = list(looks)
        self.taken = 0

    def __call__(self) -> Counters:
        self.taken += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def records(*names: str) -> Generator[Record, None, None]:
    for name in names:
        yield Phase(time=0.0, name=name)
    yield End(time=0.0, outcome="finished")


def told(watch: MachineWatch, told: Generator[Record, None, None] | None = None) -> list[str]:
    """Reasons in the tags that a run has got."""
    found = list(watch.watched(told or records("setup", "train", "evaluate", "done")))
    return [record.values["ablate.tainted"] for record in found if isinstance(record, Tags)]


@pytest.mark.usefixtures("burner")
def test_a_busy_neighbour_is_seen_through_a_run() -> None:
    """As it is: the counters of this machine, a process beside this one, a run of half a second."""

    def run() -> Generator[Record, None, None]:
        yield Phase(time=0.0, name="train")
        time.sleep(0.5)
        yield Phase(time=0.0, name="evaluate")
        yield End(time=0.0, outcome="finished")

    (reason,) = told(MachineWatch("cpu"), run())
    who, _, when = reason.partition(" used ")
    assert who in ("other processes", "other guests of the host")
    assert re.fullmatch(r"\d\.\d of \d+ cores during \d\.\d of \d\.\d s, first at \S+ UTC", when)
    assert "used" in interference.cpu_interference(0.5)[0]


@pytest.mark.parametrize(
    ("cores", "own", "others", "busy"),
    [
        (2, 1.0, 0.2, False),  # a desktop at rest
        (2, 1.0, 0.4, True),
        (2, 0.0, 2.0, True),
        (128, 2.0, 6.0, False),  # nobody waits
        (128, 120.0, 6.0, True),  # for the last cores
        (128, 2.0, 20.0, True),
    ],
)
def test_what_others_use_counts_where_a_run_feels_it(cores: int, own: float, others: float, busy: bool) -> None:
    before = replace(QUIET, cores=cores)
    assert stretch(before, later(before, 3.0, own=own, others=others)).is_busy is busy


def test_the_counters_steps_are_nobody() -> None:
    assert not stretch(QUIET, later(QUIET, 0.05, own=1.0, others=0.9)).is_busy
    assert stretch(QUIET, later(QUIET, 0.5, own=1.0, others=0.9)).is_busy


def test_the_reason_says_how_much_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    tally, now = Tally(), QUIET
    monkeypatch.setattr(interference.time, "time", lambda: 50_000.0)
    for others in (0.1, 1.5, 1.3, 0.1):
        before, now = now, later(now, 7.5, own=0.5, others=others)
        tally.add(stretch(before, now))
    assert tally.reasons() == ["other processes used 1.4 of 2 cores during 15 of 30 s, first at 13:53:12 UTC"]


def test_a_moment_in_a_long_run_taints_nothing() -> None:
    for busy, reasons in ((1, 0), (8, 1)):
        tally = Tally()
        for index in range(100):
            tally.add(stretch(QUIET, later(QUIET, 1.0, others=1.5 if index < busy else 0.0)))
        assert len(tally.reasons()) == reasons


def test_rounds_are_counted_as_rounds() -> None:
    tally = Tally("rounds")
    for others in (0.0, 1.8, 0.1):
        tally.add(stretch(QUIET, later(QUIET, 0.3, others=others)))
    assert tally.reasons()[0].startswith("other processes used 1.8 of 2 cores during 1 of 3 rounds")


def test_memory_heat_and_the_host_are_reasons() -> None:
    tally = Tally()
    tally.add(stretch(QUIET, later(QUIET, 10.0, others=1.0, stolen=9.0, stalled=0.5, throttles=3)))
    who, memory, heat = tally.reasons()
    assert who.startswith("other guests of the host used 1.0 of 2 cores")
    assert (memory, heat) == (
        "memory was short: nothing ran for 0.5 of 10.0 s",
        "the CPU was hot and slowed down 3 times",
    )


def test_only_training_is_watched_and_all_of_it() -> None:
    """Two looks at least, at its ends: a run that is over before the next look is covered, too."""
    looks = Looks(QUIET, later(QUIET, 0.6, own=1.0, others=0.9))
    assert "0.6 of 0.6 s" in told(MachineWatch("cpu", looks))[0]
    assert looks.taken == 2
    quiet = Looks(QUIET, later(QUIET, 0.6, own=1.0))
    assert told(MachineWatch("cpu", quiet)) == []
    unused = Looks(QUIET)
    assert told(MachineWatch("cpu", unused), records("setup")) == [] and unused.taken == 0, "it was not trained"


def test_the_tag_comes_before_the_end_of_training_is_told() -> None:
    found = list(MachineWatch("cpu", Looks(QUIET, later(QUIET, 5.0, others=1.0))).watched(records("train", "evaluate")))
    assert [type(record).__name__ for record in found] == ["Phase", "Tags", "Phase", "End"]


def test_a_run_that_is_given_up_is_closed_and_watched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interference, "WATCH_SECONDS", 0.01)
    closed: list[bool] = []

    def endless() -> Generator[Record, None, None]:
        try:
            while True:
                yield Phase(time=0.0, name="train")
        finally:
            closed.append(True)

    watch = MachineWatch("cpu", Looks(QUIET))
    run = watch.watched(endless())
    next(run)
    run.close()
    assert closed == [True]
    deadline = time.monotonic() + 10
    while any(thread.name == "machine watch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_long_run_is_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disturbed stretch is told apart from the rest, which one look at each end could not."""
    monkeypatch.setattr(interference, "WATCH_SECONDS", 0.01)
    first = later(QUIET, 10.0, own=1.0)
    second = later(first, 10.0, own=1.0, others=1.0)
    looks = Looks(QUIET, first, second, later(second, 10.0, own=1.0))

    def run() -> Generator[Record, None, None]:
        yield Phase(time=0.0, name="train")
        deadline = time.monotonic() + 10
        while looks.taken < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        yield Phase(time=0.0, name="evaluate")

    (reason,) = told(MachineWatch("cpu", looks), run())
    assert reason.startswith("other processes used 1.0 of 2 cores during 10 of 30 s")


def test_looks_cost_less_than_two_thousandths_of_a_core() -> None:
    """The pause grows with what a look takes; of what it takes here the usual pause is enough."""
    looks = 50
    interference.look()
    began = time.thread_time()
    for _ in range(looks):
        interference.look()
    cost = (time.thread_time() - began) / looks
    assert cost / interference._pause(cost) <= interference.WATCH_COST + 1e-9 < 0.002
    assert interference._pause(0.02) == pytest.approx(20.0)


def test_throttled_hot_and_shared_gpus_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = nvml.Gpu(0, "GPU-a", "H100", "580", 80000, 0, 40, 1980, 0, ())
    for changes, words in (
        ({}, []),
        ({"tenants": (1,)}, ["process 1"]),
        ({"throttle_reasons": 0x40}, ["thermal, hardware"]),
        ({"throttle_reasons": 0x1}, []),  # idle clocks are no fault
        ({"temperature": 95}, ["88 degrees Celsius or more"]),
    ):
        monkeypatch.setattr(nvml, "gpus", lambda: [gpu])
        watch = MachineWatch("cuda", Looks(QUIET, later(QUIET, 20.0, own=1.0)))
        monkeypatch.setattr(nvml, "gpus", lambda changes=changes: [replace(gpu, **changes)])
        found = told(watch)
        assert len(found) == len(words)
        assert all(word in reason and "during 20 of 20 s" in reason for word, reason in zip(words, found, strict=True))


def test_own_workers_are_no_co_tenants_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML may tell the host's numbers there: those of this program's own runs belong to nobody that can be seen."""
    nobody, other_host_process = 2**22 + 1, 2**22 + 2  # above the kernel's highest number
    gpu = nvml.Gpu(0, "GPU-a", "H100", "580", 80000, 0, 40, 1980, 0, ())
    tenants: list[int] = [other_host_process]
    monkeypatch.setattr(nvml, "gpus", lambda: [replace(gpu, tenants=tuple(tenants))])
    watch = MachineWatch("cuda")
    for present, foreign in (
        ([other_host_process, nobody], other_host_process),  # the first run's worker came
        ([nobody], None),
        ([1], 1),  # a process that is here, and not of this program
    ):
        tenants[:] = present
        watch._gpus_until = 0.0
        expected = [] if foreign is None else [f"GPU 0 was also used by process {foreign}"]
        assert list(watch.since(watch.look()).gpus) == expected
