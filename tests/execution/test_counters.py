"""What the kernel has counted, and of which processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline.execution import counters

SPIN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])\n"


def test_a_process_that_is_gone_still_counts() -> None:
    """Its child's child used the CPU, and both have ended before the second look."""
    before = counters.look()
    subprocess.run([sys.executable, "-c", CHILD], check=True)
    after = counters.look()
    assert 0.3 <= after.own - before.own < 2.0
    assert after.time > before.time and after.idle >= before.idle


def test_the_family_is_this_process_and_its_descendants() -> None:
    code = "import subprocess, sys\nsubprocess.run(['sleep', '60'])\n"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        try:
            deadline = time.monotonic() + 20
            while not (below := psutil.Process(child.pid).children()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            found = counters.family()
            assert {os.getpid(), child.pid, below[0].pid} <= found
            assert os.getppid() not in found and 1 not in found
        finally:
            for member in below:
                member.kill()
            child.kill()


def test_only_the_cpus_that_the_program_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour on the other ones of a large machine is none."""
    each = [SimpleNamespace(idle=idle) for idle in (10.0, 20.0, 40.0)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: each if percpu else pytest.fail("all of them"))
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    assert counters.look().cores == 2 and counters.look().idle == 50.0


def test_want_of_memory_is_read_from_the_group_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, machine = tmp_path / "group", tmp_path / "machine"
    machine.write_text("some avg10=0.00 total=9000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n")
    monkeypatch.setattr(counters, "PRESSURE", (group, machine))
    assert counters.look().stalled == 2.5
    group.write_text("some avg10=0.00 total=1\nfull avg10=0.00 total=500000\n")
    assert counters.look().stalled == 0.5
    monkeypatch.setattr(counters, "PRESSURE", (tmp_path / "none",))
    assert counters.look().stalled == 0.0


def test_slow_downs_from_heat_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("core_throttle_count", "package_throttle_count", "gone")]
    files[0].write_text("3\n")
    files[1].write_text("4\n")
    monkeypatch.setattr(counters, "_heat_files", lambda: tuple(files))
    assert counters.look().throttles == 7
