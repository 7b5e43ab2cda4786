"""Children of the command: their server is killed, their parent is killed, and their names tell no secret."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.ablate import ended, start_ablate
from tests.support.processes import STUDY, Workspace, assert_once, until, workers, working_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ONE = ("--seeds", "1")
SECRETS = ("Sw/ord#1?@fish", "Sw%2Ford%231", "tokenfish", "passfish")


def server_of(work: Workspace) -> int | None:
    """The fork server of a grid in a workspace."""
    for pid in working_in(work.folder):
        with suppress(OSError):
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes() and os.getsid(pid) != pid:
                return pid
    return None


@pytest.mark.parametrize("moment", ["at the start", "at work"])
def test_a_grid_goes_on_without_its_fork_server(moment: str, workspace: Workspace) -> None:
    workspace.file.write_text(STUDY.replace("[ga, pm]", "[ga]"))
    grid = workspace.grid(*ONE)
    until(lambda: server_of(workspace) is not None, 60, "the fork server")
    if moment == "at work":
        until(lambda: workspace.database.exists() and bool(workers(workspace.folder)), 200, "a run")
    os.kill(server_of(workspace), signal.SIGKILL)
    call = ended(grid, 280)
    assert call.code == 0 and "Traceback" not in call.err, call.err
    assert_once(workspace.rows(), 2)


def test_a_report_leaves_no_process_behind(workspace: Workspace) -> None:
    """Its child works by itself, and so cannot see that nobody waits for it any more."""
    workspace.file.write_text(STUDY.replace("[ga, pm]", "[]"))
    assert workspace.call_grid(*ONE, timeout=280).code == 0
    for seconds in (0.0, 0.5):
        report = workspace.start("report", "small")
        until(lambda: len(working_in(workspace.folder)) == 2 or report.poll() is not None, 60, "the child")  # noqa: B023
        time.sleep(seconds)
        report.kill()
        report.communicate(timeout=60)
        until(lambda: not working_in(workspace.folder), 5, "the child's end")


class CommandLines(threading.Thread):
    """Reads what everybody can read of a process's descendants, until it ends.

    Args:
        root: the process.
    """

    def __init__(self, root: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._root = root
        self.seen: dict[int, set[bytes]] = {}

    def run(self) -> None:
        while self._root.poll() is None:
            for pid in self._family():
                with suppress(OSError):
                    self.seen.setdefault(pid, set()).add(Path(f"/proc/{pid}/cmdline").read_bytes())
            time.sleep(0.02)

    def _family(self) -> list[int]:
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, ValueError, IndexError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        family = [self._root.pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family[1:]


def watched(workspace: Workspace, *words: str, stop_after: float = 0.0, **variables: str) -> dict[int, set[bytes]]:
    """Runs a command and returns the command lines of its descendants."""
    process = start_ablate(*words, cwd=workspace.folder, env=variables)
    lines = CommandLines(process)
    lines.start()
    if stop_after:
        time.sleep(stop_after)
        process.terminate()
    ended(process, 280)
    lines.join(10)
    return lines.seen


def test_no_secret_stands_in_the_list_of_processes(workspace: Workspace) -> None:
    workspace.file.write_text(STUDY.replace("[ga, pm]", "[]"))
    database = "postgresql://user:Sw/ord#1?@fish@127.0.0.1:9/runs"
    tokens = {"MLFLOW_TRACKING_PASSWORD": "passfish", "MLFLOW_TRACKING_TOKEN": "tokenfish"}
    encoded = "postgresql://user:Sw%2Ford%231@127.0.0.1:9/runs"
    grid = ("grid", "--study", "small.yaml", "--device", "cpu", *ONE)
    tune = ("tune", "--model", "test_resnet", "--dataset", "digits", "--study", "small.yaml", "--device", "cpu")
    few = ("--batch-sizes", "16", "--accumulation", "1", "--trials", "1")
    # the parent's own line shows what the user wrote; what comes from the environment shows nowhere
    calls = [
        watched(workspace, *grid, MLFLOW_TRACKING_URI=encoded, **tokens),
        watched(workspace, *tune, *few, ABLATE_STORAGE=database, **tokens),
        watched(workspace, "doctor", MLFLOW_TRACKING_URI=encoded, **tokens),
        watched(workspace, "report", "small", MLFLOW_TRACKING_URI=database, **tokens),
        watched(workspace, "ui", stop_after=6.0, MLFLOW_TRACKING_URI=encoded, **tokens),
        watched(workspace, "ui", "--optuna", stop_after=6.0, ABLATE_STORAGE=encoded, **tokens),
    ]
    assert calls[0] and calls[2], "children were seen"
    lines = [line.decode(errors="replace") for seen in calls for texts in seen.values() for line in texts]
    assert not [line for line in lines if any(secret in line for secret in SECRETS)]
