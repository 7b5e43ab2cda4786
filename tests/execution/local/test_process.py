"""A child process: its pipes, its start signal, its end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.errors import OutsideError
from pipeline.execution.local.process import Child, death, dump_and_stop, last_words, stop

CONTEXT: Any = multiprocessing.get_context("forkserver")


def waits(word: str, start_signal: Connection, records: Connection, lifeline: Connection, log_path: str) -> None:
    """A target: sends its word, then what its start signal says."""
    del lifeline
    os.setsid()
    Path(log_path).write_text("log")
    records.send(word)
    records.send(start_signal.recv_bytes())


def sleeps(records: Connection, lifeline: Connection, log_path: str) -> None:
    """A target that only a signal ends."""
    del lifeline, log_path
    os.setsid()
    signal.signal(signal.SIGUSR1, lambda *_: records.send("dumped"))
    records.send("sleeps")
    while True:
        time.sleep(60)


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[Child]:
    child = Child(CONTEXT, sleeps, (), tmp_path / "log.txt")
    assert child.records.recv() == "sleeps"
    yield child
    child.close()


def test_a_log_that_grows_too_long_begins_anew(
    sleeping: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.execution.local.process.CHILD_LOG_BYTES", 10)
    log = tmp_path / "log.txt"
    for text, left in (("short", "short"), ("x" * 11, "")):
        log.write_text(text)
        sleeping.cap_log()
        assert log.read_text() == left


def test_a_child_waits_for_its_start_signal(tmp_path: Path) -> None:
    child = Child(CONTEXT, waits, ("ready",), tmp_path / "log.txt", waits=True)
    assert child.records.recv() == "ready"
    assert not child.records.poll(0.2)
    child.send_start()
    assert child.records.recv() == b"go"
    child.wait()
    assert child.process.exitcode == 0
    child.send_start()  # to one that has ended: nothing happens
    child.close()
    assert (tmp_path / "log.txt").read_text() == "log"


def test_a_child_without_start_signal_has_none(sleeping: Child) -> None:
    sleeping.send_start()
    assert not sleeping.records.poll(0.1)


def test_stopping_kills_and_reaps(sleeping: Child) -> None:
    stop(sleeping.process)
    assert sleeping.process.exitcode == -signal.SIGKILL
    stop(sleeping.process)  # again: nothing is left to kill


def test_a_dump_is_asked_for_before_the_kill(sleeping: Child) -> None:
    os.kill(sleeping.pid, signal.SIGSTOP)  # it would not answer unless it is woken
    dump_and_stop(sleeping.process)
    assert sleeping.records.recv() == "dumped"
    assert sleeping.process.exitcode == -signal.SIGKILL


def test_closing_ends_a_child_that_runs(tmp_path: Path) -> None:
    child = Child(CONTEXT, sleeps, (), tmp_path / "log.txt")
    child.records.recv()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [(None, "no exit status"), (3, "exit status 3"), (-9, "signal SIGKILL"), (-77, "signal 77")],
)
def test_exit_codes_in_words(code: int | None, words: str) -> None:
    assert death(code) == words


def test_a_log_is_named_where_there_is_one_with_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert last_words(log) == "", "it never came to be"
    log.write_text("\n  \n")
    assert last_words(log) == ""
    log.write_bytes(b"x" * 9000 + b"\nTraceback\n  in a file\nValueError: \xff it was wrong\n\n")
    assert last_words(log) == f"; see {log}: ValueError: \ufffd it was wrong"
    log.write_text("y" * 9000)
    assert len(last_words(log)) < 300 + len(str(log))


def test_no_other_message_names_a_log_without_a_look_at_it() -> None:
    package = Path(pipeline.__file__).parent
    sources = {path.name: path.read_text() for path in package.rglob("*.py")}
    assert [name for name, text in sources.items() if "see {" in text] == ["process.py"]


@pytest.mark.parametrize("moment", ["seen alive", "at work"])
def test_a_server_that_is_killed_is_replaced(moment: str, tmp_path: Path) -> None:
    """It dies after it was seen alive, with the request in its hands; or between two requests."""
    forkserver.ensure_running()
    servers: Any = forkserver._forkserver
    server = servers._forkserver_pid
    if moment == "seen alive":
        os.kill(server, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (server, signal.SIGKILL)).start()
    else:
        os.kill(server, signal.SIGKILL)
    child = Child(CONTEXT, sleeps, (), tmp_path / "log.txt")
    assert child.records.recv() == "sleeps"
    assert servers._forkserver_pid != server
    child.close()


def test_servers_that_do_not_live_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_fds: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(forkserver, "connect_to_new_process", refuses)
    monkeypatch.setattr("pipeline.execution.local.process.PAUSE_SECONDS", 0.0)
    with pytest.raises(OutsideError, match="the server that runs are forked from"):
        Child(CONTEXT, sleeps, (), tmp_path / "log.txt")
