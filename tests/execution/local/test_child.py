"""The entry of a forked worker: records as JSON, an answer to the preflight, an end with the parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.design.records import Artifact, Job, parse_record
from pipeline.execution.local import child
from pipeline.execution.local.process import Child
from tests.support.processes import kill, until
from tests.support.training import small_spec

CONTEXT: Any = multiprocessing.get_context("forkserver")


def job(digits_dir: Path, folder: Path, **recipe: Any) -> str:
    spec = small_spec(**recipe)
    return Job(spec=spec, data_dir=str(digits_dir), work_dir=str(folder)).model_dump_json()


def test_records_travel_as_json() -> None:
    ours, theirs = multiprocessing.Pipe()
    record = Artifact(time=1.5, path="figure.png", folder="figures")
    child.sender(theirs)(record)
    assert parse_record(ours.recv_bytes()) == record


def test_the_preflight_answers_with_notes_and_ok(digits_dir: Path, tmp_path: Path) -> None:
    asked = Child(CONTEXT, child.check_child, ([job(digits_dir, tmp_path)],), tmp_path / "log.txt")
    answers = [asked.records.recv()]
    while answers[-1][0] == "note":
        answers.append(asked.records.recv())
    asked.close()
    assert answers[0] == ("note", "preparing digits") and answers[-1] == ("ok", "")


def test_the_preflight_answers_with_exit_code_and_message(digits_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no weights")
    payload = job(digits_dir, tmp_path, weights=str(weights))
    asked = Child(CONTEXT, child.check_child, ([payload],), tmp_path / "log.txt")
    answer = asked.records.recv()
    while answer[0] == "note":
        answer = asked.records.recv()
    asked.close()
    assert answer[0] == 2 and answer[1].startswith("recipe.weights: ")


PARENT = """
import multiprocessing, sys, time
from pathlib import Path
from pipeline.execution.local import child
from pipeline.execution.local.process import Child

if __name__ == "__main__":
    worker = Child(multiprocessing.get_context("forkserver"), child.run_child, (sys.argv[1], time.monotonic()),
                   Path(sys.argv[2]), waits=True)
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def parent_of_worker(script: str, digits_dir: Path, tmp_path: Path) -> tuple[subprocess.Popen[str], int]:
    """Starts a script that makes a worker and prints its pid."""
    (tmp_path / "parent.py").write_text(script)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(tmp_path / "parent.py"), job(digits_dir, tmp_path), str(tmp_path / "log.txt")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_a_worker_ends_with_its_parent(digits_dir: Path, tmp_path: Path) -> None:
    """Also one that waits for its start signal, and whatever process group it leads."""
    parent, pid = parent_of_worker(PARENT, digits_dir, tmp_path)
    until(lambda: os.getsid(pid) == pid, 60, "the worker's own session")
    kill(parent)
    until(lambda: state(pid) in ENDED, 60, "the end of the worker")


def test_a_worker_stopped_as_soon_as_it_can_be_told_ends_with_its_parent(digits_dir: Path, tmp_path: Path) -> None:
    """The instant in which it has a session of its own, by which workers are found, is the first that can be hit."""
    stops = """
import os, signal
own_session = os.setsid
os.setsid = lambda: (own_session(), os.kill(os.getpid(), signal.SIGSTOP))
"""
    parent, pid = parent_of_worker(stops + PARENT, digits_dir, tmp_path)
    until(lambda: state(pid) == "T", 60, "the stop")
    try:
        kill(parent)
        until(lambda: state(pid) in ENDED, 10, "the end of the worker")
    finally:
        if state(pid) not in ENDED:
            os.kill(pid, signal.SIGKILL)


ENDED = ("Z", "X", "")


def state(pid: int) -> str:
    """The kernel's letter for a process's state; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
