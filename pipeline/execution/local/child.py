"""Entry of a forked child. Light on purpose: the parent imports it to name the function, and must not get torch."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import host
from pipeline.files import open_own

if TYPE_CHECKING:
    from pipeline.design.records import Record


def run_child(
    payload: str, began: float, start_signal: Connection, records: Connection, lifeline: Connection, log_path: str
) -> None:
    """Runs one job in this process and streams its records.

    Args:
        payload: the job, as JSON.
        began: `time.monotonic()` when the parent launched it, in s.
        start_signal: training starts when a message comes from here; so does each turn of a cell that takes turns.
        records: where records go, each as one JSON message.
        lifeline: never written to; its end-of-file means that the parent is dead.
        log_path: takes standard output and error.
    """
    _enter(lifeline, log_path)
    from pipeline.design.records import Job
    from pipeline.training import worker

    job = Job.model_validate_json(payload)
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    worker.run_job(job, sender(records), began, lambda: _await(start_signal))
    _leave(records)


def sender(records: Connection) -> Callable[[Record], None]:
    """Returns what a worker emits its records with: one JSON message each, for `parse_record`."""

    def send(record: Record) -> None:
        records.send_bytes(record.__pydantic_serializer__.to_json(record))

    return send


def check_child(payloads: list[str], records: Connection, lifeline: Connection, log_path: str) -> None:
    """Runs the preflight in this process; sends ("note", text) while it works, then ("ok", "") or (exit code, message).

    Args:
        payloads: jobs, as JSON.
        records: where notes and answer go.
        lifeline: never written to; its end-of-file means that the parent is dead.
        log_path: takes standard output and error.
    """
    _enter(lifeline, log_path)
    from pipeline.design.records import Job
    from pipeline.errors import AblateError
    from pipeline.training import preflight

    answer: tuple[Any, str] = ("ok", "")
    try:
        jobs = [Job.model_validate_json(payload) for payload in payloads]
        preflight.preflight(jobs, lambda text: records.send(("note", text)))
    except AblateError as error:
        answer = (error.exit_code, str(error))
    except Exception as error:
        import traceback

        traceback.print_exc()
        answer = (3, f"preflight: {type(error).__name__}: {error}")
    records.send(answer)
    _leave(records)


def _await(start_signal: Connection) -> bytes:
    """Waits for the parent's next word; without a parent there is no run."""
    try:
        return start_signal.recv_bytes()
    except EOFError:
        os._exit(1)


def _enter(lifeline: Connection, log_path: str) -> None:
    """Own process group (signals of the terminal are the parent's), log file, stack dumps, watch on the parent."""
    # The session comes last: who finds a worker by it finds one that cannot outlive its parent, however early it is
    # stopped. A stopped one would else keep the server alive, and both for ever.
    _leave_server()
    host.die_with_parent()  # the fork server, which ends with the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the server ignores it
    os.setsid()
    log = open_own(Path(log_path), os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - descriptors, for the whole life
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(file=sys.stderr)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True, name="lifeline").start()


def _leave_server() -> None:
    """Closes this child's end of the pipe that keeps the fork server alive.

    The server is to end with the parent, and not to wait for a worker that hangs.
    """
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def _watch(lifeline: Connection) -> None:
    """Ends the whole process group, data-loading workers included, as soon as the parent is gone."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _leave(records: Connection) -> None:
    """Skips interpreter shutdown: everything is flushed, and destructors of CUDA and threads only cost time."""
    records.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
