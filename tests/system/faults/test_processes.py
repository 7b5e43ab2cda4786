"""Real processes and real signals: whatever dies, nothing is lost, nothing is run twice, nothing is left over."""

from __future__ import annotations

import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import command_line, ended, environment
from tests.support.processes import (
    STUDY,
    Workspace,
    assert_once,
    journal_entries,
    kill,
    lines_of,
    rows_of,
    until,
    workers,
    working_in,
)

pytestmark = pytest.mark.slow  # each starts several grids, and a start imports for seconds
LONG = ("--set", "epochs=2000")


def artifact_text(workspace: Workspace, run_id: str, name: str) -> str:
    return (workspace.state / "artifacts" / run_id / "artifacts" / name).read_text()


def test_the_same_call_again_runs_only_what_is_not_finished(workspace: Workspace) -> None:
    first = workspace.call_grid("--json")
    assert first.code == 0, first.err
    assert first.json()["finished"] == 4
    assert_once(workspace.rows(), 4)
    entries = len(list(journal_entries(workspace.folder)))

    again = workspace.call_grid("--json")
    assert again.code == 0
    assert_once(workspace.rows(), 4)
    assert "started" not in again.err
    assert again.json()["results"] == first.json()["results"]
    assert len(list(journal_entries(workspace.folder))) < entries + 12

    workspace.file.write_text(STUDY.replace("[ga, pm]", "[ga, pm, bf16]"))
    edited = workspace.call_grid("--json", "--technique", "bf16=on")
    assert edited.code == 0, edited.err
    # another question, which shares no cell with the first: a block is measured in one go
    assert edited.json()["finished"] == 8 and len(workspace.rows()) == 12
    assert len(workspace.rows("grid")) == 2

    workspace.file.write_text(STUDY)
    fresh = workspace.call_grid("--fresh", "--techniques", "pm")
    assert fresh.code == 0, fresh.err
    assert len(workspace.rows()) == 14
    parents = workspace.rows("grid")
    assert [parent.status for parent in parents] == ["FINISHED"] * 3
    assert sum(row.tags["mlflow.parentRunId"] == parents[2].run_id for row in workspace.rows()) == 2


def test_failed_cells_are_tried_again_up_to_retries_over_all_calls(workspace: Workspace) -> None:
    """A learning rate out of reason: the loss becomes NaN; the row says where."""
    words = ("--techniques", "pm", "--set", "learning_rate=1.0e+30", "--set", "optimizer=sgd", "--set", "epochs=3")
    codes = [workspace.call_grid(*words, "--retries", "1").code for _ in range(3)]
    assert codes == [1, 1, 1]
    rows = workspace.rows()
    assert len(rows) == 4, "2 cells, 2 tries each"
    assert {(row.status, row.outcome) for row in rows} == {("FAILED", "failed")}
    assert all(re.search(r"epoch 1, step \d", row.tags["ablate.error"]) for row in rows)
    assert {row.status for row in workspace.rows("grid")} == {"FAILED"}
    last = workspace.call_grid(*words, "--retries", "2", "--json")
    assert last.json(1)["failed"] == 2
    assert len(workspace.rows()) == 6


def test_out_of_memory_is_an_outcome_and_the_grid_goes_on(workspace: Workspace) -> None:
    """One of two models needs more than the address space that its process may have."""
    hungry = "  test_efficientnet: {image_size: 1024, batch_size: 96}\n"
    workspace.file.write_text(STUDY.replace("models:\n", f"models:\n{hungry}").replace("samples: 96", "samples: 192"))
    words = ("--techniques", "none")
    process = workspace.grid(*words)
    lines_of(process, "^started +test_efficientnet")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    limit = address_space(worker) + 2**28
    resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
    call = ended(process, 200)
    assert call.code == 1, call.err
    outcomes = {row.params["model"]: (row.status, row.outcome) for row in workspace.rows()}
    assert outcomes == {"test_resnet": ("FINISHED", "finished"), "test_efficientnet": ("FAILED", "oom")}
    (oom,) = [row for row in workspace.rows() if row.outcome == "oom"]
    assert "memory" in oom.tags["ablate.error"]
    assert "memory" in artifact_text(workspace, oom.run_id, "log.txt")
    again = workspace.call_grid(*words, "--json")
    assert again.json(1)["oom"] == 1, "an out-of-memory cell is not tried again"
    assert len(workspace.rows()) == 2


def address_space(pid: int) -> int:
    """Virtual memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_killed_parent_takes_its_workers_along_and_its_rows_are_closed(workspace: Workspace) -> None:
    """SIGKILL of the parent: workers and their data-loading workers are gone within two seconds."""
    loader = ("--set", "input_pipeline=loader", "--set", "num_workers=2")
    process = workspace.grid("--techniques", "none", *loader, *LONG)
    lines_of(process, "^started")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    until(lambda: len(family(worker)) >= 3, 30, "two data-loading workers")
    members = family(worker)
    kill(process)
    time.sleep(2)
    assert not [pid for pid in members if Path(f"/proc/{pid}").exists() and not zombie(pid)]
    until(lambda: not working_in(workspace.folder), 8, "the end of the fork server")
    (row,) = workspace.rows()
    assert row.status == "RUNNING", "nobody was there to close it"

    status = workspace.call("status", "small", "--json").json()
    assert (status["running"], status["interrupted"]) == (0, 1)
    call = workspace.call_grid("--techniques", "none")
    assert call.code == 0, call.err
    first = next(found for found in workspace.rows() if found.run_id == row.run_id)
    assert (first.status, first.outcome) == ("KILLED", "interrupted")
    assert "controller died" in first.tags["ablate.error"]
    # it asked for another length, so that its parent is another one; that of the dead controller is closed all the same
    assert sorted(parent.status for parent in workspace.rows("grid")) == ["FINISHED", "KILLED"]


def test_a_killed_parent_takes_a_stopped_worker_along(workspace: Workspace) -> None:
    """A worker that cannot look after itself is ended by the kernel, together with the fork server."""
    process = workspace.grid("--techniques", "none", *LONG)
    lines_of(process, "^started")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    os.kill(worker, signal.SIGSTOP)
    kill(process)
    until(lambda: not working_in(workspace.folder), 4, "the end of all processes")


def test_whoever_reads_the_output_does_not_wait_for_the_fork_server(workspace: Workspace) -> None:
    """The server holds the command's standard output open: it has to be gone when the command is."""
    process = workspace.grid("--techniques", "none")
    assert process.wait(120) == 0
    began = time.monotonic()
    ended(process, 30)
    assert time.monotonic() - began < 1.5


def family(leader: int) -> list[int]:
    """The processes of a worker's group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_closes_the_rows_and_says_how_to_go_on(workspace: Workspace, number: int) -> None:
    process = workspace.grid(*LONG, "--fresh", "--jobs", "2")
    lines_of(process, "^started")
    until(lambda: any(row.status == "RUNNING" for row in workspace.rows()), 20, "an open row")
    began = time.monotonic()
    kill(process, number)
    call = ended(process, 30)
    assert time.monotonic() - began < 15
    assert call.code == 130
    resume = "go on with: ablate grid --study small.yaml --device cpu --set epochs=2000 --jobs 2"
    assert call.lines == [f"ablate: interrupted; {resume}"]
    rows = workspace.rows()
    assert rows
    assert {(row.status, row.outcome) for row in rows} == {("KILLED", "interrupted")}
    assert {(row.status, row.outcome) for row in workspace.rows("grid")} == {("KILLED", "interrupted")}


def test_a_signal_to_all_processes_interrupts_and_fails_nothing(workspace: Workspace) -> None:
    process = workspace.grid("--techniques", "none", *LONG)
    lines_of(process, "^started")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):  # as batch systems and shells do
        os.kill(worker, number)
        os.killpg(process.pid, number)
    assert ended(process, 30).code == 130
    assert [(row.status, row.outcome) for row in workspace.rows()] == [("KILLED", "interrupted")]


def test_a_terminal_that_closes_interrupts(workspace: Workspace) -> None:
    terminal, own = pty.openpty()
    words = command_line("grid", "--study", "small.yaml", "--device", "cpu", "--techniques", "none", *LONG)
    script = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        cwd=workspace.folder, env=environment(TERM="xterm"), stdin=own, stdout=own, stderr=own, start_new_session=True,
    )  # fmt: skip
    os.close(own)
    screen = b""
    while b"starting" not in screen or not workers(workspace.folder):
        screen += os.read(terminal, 65536)
    until(lambda: any(row.status == "RUNNING" for row in workspace.rows()), 20, "an open row")
    os.close(terminal)
    assert process.wait(30) == 130
    assert [(row.status, row.outcome) for row in workspace.rows()] == [("KILLED", "interrupted")]


def test_what_nobody_reads_any_more_is_run_all_the_same(workspace: Workspace) -> None:
    process = workspace.grid("--techniques", "ga")
    lines_of(process, "^started")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    call = ended(process, 60)
    assert (call.code, call.lines) == (0, ["ablate: standard output: its reader has ended; the work goes on, unseen"])
    assert_once(workspace.rows(), 2)


def test_a_signal_before_the_first_run_says_how_to_go_on(workspace: Workspace) -> None:
    process = workspace.grid()
    lines_of(process, "^study small")
    time.sleep(0.5)
    kill(process, signal.SIGTERM)
    call = ended(process, 30)
    assert call.code == 130
    assert call.lines == ["ablate: interrupted; go on with: ablate grid --study small.yaml --device cpu"]


def test_a_second_signal_leaves_at_once(workspace: Workspace) -> None:
    process = workspace.grid("--techniques", "none", *LONG)
    lines_of(process, "^started")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    kill(process, signal.SIGINT)
    time.sleep(0.2)  # two signals at once are one
    kill(process, signal.SIGINT)
    code = process.wait(10)  # its pipes close later, when the fork server has shut down as well
    assert time.monotonic() - began < 3
    assert code == 130
    ended(process, 30)
    until(lambda: not Path(f"/proc/{worker}").exists() or zombie(worker), 3, "the end of the worker")


def test_a_killed_worker_is_a_failed_run_with_its_log(workspace: Workspace) -> None:
    process = workspace.grid("--techniques", "pm", "--set", "epochs=60")
    lines_of(process, "^started")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    os.kill(worker, signal.SIGKILL)
    call = ended(process, 120)
    assert call.code == 1
    rows = sorted(workspace.rows(), key=lambda row: row.outcome)
    assert [(row.status, row.outcome) for row in rows] == [("FAILED", "failed"), ("FINISHED", "finished")]
    assert "SIGKILL" in rows[0].tags["ablate.error"]
    assert (workspace.state / "artifacts" / rows[0].run_id / "artifacts" / "log.txt").is_file()


def test_a_hanging_worker_times_out_with_its_stacks(workspace: Workspace) -> None:
    process = workspace.grid("--techniques", "none", *LONG, "--timeout", "8")
    lines_of(process, "^started")
    (worker,) = until(lambda: workers(workspace.folder), 30, "a worker")
    until(lambda: any(row.points for row in workspace.rows()), 20, "an epoch")
    os.kill(worker, signal.SIGSTOP)
    call = ended(process, 60)
    assert call.code == 1
    (row,) = workspace.rows()
    assert (row.status, row.outcome) == ("FAILED", "timeout")
    assert "within 8 s" in row.tags["ablate.error"]
    log = artifact_text(workspace, row.run_id, "log.txt")
    assert "Thread 0x" in log
    assert "trainer.py" in log


def test_two_controllers_in_one_folder_share_the_cells(workspace: Workspace) -> None:
    """Started at the same instant, nothing there yet: one parent, each cell once."""
    words = ("--set", "epochs=3", "--json")
    calls = [ended(process, 120) for process in [workspace.grid(*words), workspace.grid(*words)]]
    assert [call.code for call in calls] == [0, 0], [call.err for call in calls]
    assert_once(workspace.rows(), 4)
    assert len(workspace.rows()) == 4
    assert [row.status for row in workspace.rows("grid")] == ["FINISHED"]
    assert all(call.json()["finished"] == 4 for call in calls)
    assert all("started" in call.err for call in calls), "both worked"


def test_two_controllers_with_folders_of_their_own_share_a_store(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other")
    words = ("--set", "epochs=3", "--json", "--tracking-uri", f"sqlite:///{workspace.folder}/shared.db")
    calls = [ended(process, 120) for process in [workspace.grid(*words), other.grid(*words)]]
    assert [call.code for call in calls] == [0, 0], [call.err for call in calls]
    rows = rows_of(workspace.folder / "shared.db")
    assert_once(rows, 4)
    assert len(rows) == 4
    assert [row.status for row in rows_of(workspace.folder / "shared.db", "grid")] == ["FINISHED"]
    assert all(call.json()["finished"] == 4 for call in calls)


def test_the_parent_stays_open_until_the_last_controller_has_left(workspace: Workspace, tmp_path: Path) -> None:
    """One controller is interrupted while the other goes on; a cell of a killed one is taken over."""
    other = Workspace(tmp_path / "other")
    uri = ("--tracking-uri", f"sqlite:///{workspace.folder}/shared.db")
    words = ("--set", "epochs=400", *uri)
    first, second = workspace.grid(*words), other.grid(*words)
    lines_of(first, "^started")
    lines_of(second, "^started")
    database = workspace.folder / "shared.db"
    until(lambda: sum(row.status == "RUNNING" for row in rows_of(database)) == 2, 20, "two open rows")
    kill(first, signal.SIGINT)
    assert ended(first, 40).code == 130
    (parent,) = rows_of(database, "grid")
    assert parent.status == "RUNNING"
    kill(second)
    until(lambda: not working_in(other.folder), 8, "the end of the fork server")
    assert ended(workspace.grid(*uri), 120).code == 0
    rows = rows_of(database)
    assert len({row.digest for row in rows if row.status == "FINISHED"}) == 4
    assert not [row.name for row in rows if row.status == "RUNNING"]
    # cells of another length have a parent of their own; the killed controller's is closed
    assert sorted(row.status for row in rows_of(database, "grid")) == ["FINISHED", "KILLED"]


def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_numbers(workspace: Workspace, tmp_path: Path) -> None:
    """The parent is killed in mid-run; the metrics are those of an undisturbed run, and train_seconds adds up."""
    words = (
        "--techniques",
        "none",
        "--set",
        "epochs=60",
        "--set",
        "schedule=onecycle",
        "--set",
        "augmentation=affine_flip",
    )
    calm = Workspace(tmp_path / "calm")
    assert calm.call_grid(*words).code == 0
    process = workspace.grid(*words, "--checkpoint-every", "1")
    lines_of(process, "^started")
    until(lambda: any(len(row.points) > 60 for row in workspace.rows()), 40, "some epochs")
    kill(process)
    until(lambda: not working_in(workspace.folder), 8, "the end of all processes")
    assert list(workspace.state.glob("work/*/checkpoint.pt"))
    began = time.monotonic()
    call = workspace.call_grid(*words, "--checkpoint-every", "1")
    assert call.code == 0, call.err
    assert time.monotonic() - began < 60
    (expected,) = calm.rows()
    killed, resumed = sorted(workspace.rows(), key=lambda row: row.status, reverse=True)
    assert (killed.status, resumed.status) == ("KILLED", "FINISHED")
    assert resumed.results() == expected.results()
    assert curve(resumed, "train/loss") == curve(expected, "train/loss")
    assert len(curve(resumed, "train/loss")) == 60
    epochs = sum(value for _, value in curve(resumed, "train/epoch_seconds"))
    assert resumed.metrics["time/train_seconds"] == pytest.approx(epochs, rel=0.02)
    before = dict(curve(killed, "train/epoch_seconds"))
    same = [step for step, value in curve(resumed, "train/epoch_seconds") if before.get(step) == value]
    assert len(same) >= 3, "the epochs before the kill were not trained again"
    assert not list(workspace.state.glob("work/*/checkpoint.pt"))


def curve(row: Any, key: str) -> list[tuple[int, float]]:
    return sorted((step, value) for name, step, _, value in row.points if name == key)
