"""What the operating system is told, seen from processes that have been told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import host
from tests.support.ablate import ROOT, environment
from tests.support.processes import until

PARENT = """
import subprocess, sys, time
child = "import sys, time; from pipeline import host; {call}; print(flush=True); time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(("call", "left"), [("host.die_with_parent()", False), ("pass", True)])
def test_death_with_the_parent(call: str, left: bool) -> None:
    command = [sys.executable, "-c", PARENT.replace("{call}", call)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    if left:
        assert lives(child), "nobody has asked for its end"
        os.kill(child, signal.SIGKILL)
    else:
        until(lambda: not lives(child), 10, "the child's end")


def test_workers_import_nothing_from_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "relative", str(ROOT), "/absolute"]))
    environment = host.process_environment()
    assert environment["PYTHONSAFEPATH"] == "1" and environment["OMP_WAIT_POLICY"] == "passive"
    assert set(environment["PYTHONPATH"].split(os.pathsep)) == {str(ROOT), "/absolute"}


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"/sys/fs/cgroup/memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ({"/sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\noom_kill 5\n"}, 5),
        ({}, 0),
    ],
)
def test_out_of_memory_kills_of_either_control_group(
    files: dict[str, str], kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert host.oom_kills() == kills
