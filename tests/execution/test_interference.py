"""Whether the machine is quiet before a block: what taints its cells, and what does not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from pipeline import nvml
from pipeline.execution import interference


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


@pytest.mark.usefixtures("burner")
def test_the_gate_sees_other_processes() -> None:
    (reason,) = interference.cpu_interference(0.5)
    assert "other processes used" in reason


def test_the_gate_lets_a_quiet_machine_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([SimpleNamespace(idle=100.0, iowait=0.0), SimpleNamespace(idle=100.0 + 10, iowait=0.0)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(times))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    assert interference.cpu_interference(0.1) == []


def test_the_gate_sees_throttled_and_shared_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = nvml.Gpu(0, "GPU-a", "H100", "580", 80000, 0, 40, 1980, 0, ())
    for changes, words in (
        ({}, []),
        ({"tenants": (1,)}, ["process 1"]),
        ({"throttle_reasons": 0x40}, ["thermal, hardware"]),
        ({"throttle_reasons": 0x1}, []),  # idle clocks are no fault
        ({"temperature": 95}, ["95 degrees"]),
    ):
        monkeypatch.setattr(nvml, "gpus", lambda changes=changes: [replace(gpu, **changes)])
        found = interference.gpu_interference()
        assert len(found) == len(words)
        assert all(word in reason for word, reason in zip(words, found, strict=True))


def test_own_workers_are_no_co_tenants_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML may tell the host's numbers there: those of this program's own runs belong to nobody that can be seen."""
    nobody, other_host_process = 2**22 + 1, 2**22 + 2  # above the kernel's highest number
    gpu = nvml.Gpu(0, "GPU-a", "H100", "580", 80000, 0, 40, 1980, 0, ())
    tenants: list[int] = [other_host_process]
    monkeypatch.setattr(nvml, "gpus", lambda: [replace(gpu, tenants=tuple(tenants))])
    monkeypatch.setattr(interference, "cpu_interference", list)
    gate = interference.InterferenceCheck("cuda")
    assert gate.before_run(0, alone=True) == [f"GPU 0 is also used by process {other_host_process}"]
    tenants.append(nobody)  # the first run's worker
    assert gate.before_run(0, alone=False) == [f"GPU 0 is also used by process {other_host_process}"]
    tenants.remove(other_host_process)
    assert gate.before_run(0, alone=False) == []
    tenants[:] = [1]  # a process that is here, and not of this program
    assert gate.before_run(0, alone=False) == ["GPU 0 is also used by process 1"]


def test_the_cpu_is_watched_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(interference, "cpu_interference", lambda: looks.append(time.time()) or ["busy"])
    gate = interference.InterferenceCheck("cpu")
    assert [gate.before_run(0, alone=True), gate.before_run(0, alone=True), gate.before_run(1, alone=True)] == [
        ["busy"]
    ] * 3
    assert len(looks) == 2
    assert gate.before_run(2, alone=False) == [], "own runs are not other processes"
