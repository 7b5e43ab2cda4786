"""A child process with its pipes, from start to end; how a dead one is described."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from pipeline.errors import OutsideError

SERVER_LOST = 255  # exit code of a process whose server is gone: nobody knows any more how it ended
TRIES, PAUSE_SECONDS = 5, 0.1  # to get a process from a server that may be killed meanwhile; longer each time
CHILD_LOG_BYTES = 64 * 2**20  # of one run's log, which a library may fill with a line for each batch
LAST_BYTES, LAST_LETTERS = 4096, 200  # of a log, read and shown
GRACE_SECONDS = 3.0  # that an ending worker gets before it is killed, or a killed one to be reaped


class Child:
    """A process forked from the server, in a process group of its own.

    Args:
        context: whose server it is forked from.
        target: called with `arguments`, then the pipe for its records, its lifeline, and the log's path.
        arguments: picklable; the start signal, if there is one, comes behind them.
        log: takes its output.
        waits: whether it gets a pipe for a start signal, which `send_start` sends.

    Attributes:
        process: the process.
        pid: its number.
        records: what it sends.

    Raises:
        OutsideError: no server lives long enough.
    """

    def __init__(
        self, context: ForkServerContext, target: Any, arguments: tuple[Any, ...], log: Path, *, waits: bool = False
    ) -> None:
        self._log = log
        for attempt in range(TRIES):
            try:
                self._start(context, target, arguments, log, waits)
                break
            except (EOFError, ConnectionError, FileNotFoundError) as error:
                # the server died after it was seen alive: a new one is started, once the kernel knows of the death.
                # Should the process be there all the same, it ends now: its lifeline is cut
                self._close_pipes()
                if attempt + 1 == TRIES:
                    raise OutsideError("the server that runs are forked from ends as soon as it is started") from error
                time.sleep(PAUSE_SECONDS * 2**attempt)
        self.pid = self.process.pid or 0

    def _start(
        self, context: ForkServerContext, target: Any, arguments: tuple[Any, ...], log: Path, waits: bool
    ) -> None:
        self.records, sender = context.Pipe(duplex=False)
        watched, self._lifeline = context.Pipe(duplex=False)
        start_signal: Connection | None = None
        self._start_signal: Connection | None = None
        if waits:
            start_signal, self._start_signal = context.Pipe(duplex=False)
        given = (*arguments, start_signal) if waits else arguments
        self.process: ForkServerProcess = context.Process(
            target=target, args=(*given, sender, watched, str(log.absolute()))
        )
        try:
            self.process.start()
        finally:
            for end in (sender, watched, start_signal):
                if end is not None:
                    end.close()

    def send_start(self, message: bytes = b"go") -> None:
        """Lets it go on; a process that has died meanwhile is noticed by whoever reads its records.

        Args:
            message: what it is told to do, where there is a choice.
        """
        if self._start_signal is not None:
            with suppress(OSError):
                self._start_signal.send_bytes(message)

    def cap_log(self) -> None:
        """Lets a log that has grown too long begin anew; the child opens it for appending."""
        with suppress(OSError):
            if self._log.stat().st_size > CHILD_LOG_BYTES:
                os.truncate(self._log, 0)

    def wait(self) -> None:
        """Gives it a moment to end by itself."""
        self.process.join(GRACE_SECONDS)

    def close(self) -> None:
        """Ends it, however, and reaps it."""
        if self.process.is_alive():
            stop(self.process)
        self.process.close()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for end in (self._lifeline, self.records, self._start_signal):
            if end is not None:
                end.close()


def stop(process: ForkServerProcess) -> None:
    """Kills a process with its process group and reaps it."""
    pid = process.pid
    if pid is None:
        return
    for kill in (os.killpg, os.kill):  # the group exists once the child has called setsid
        try:
            kill(pid, signal.SIGKILL)
            break
        except ProcessLookupError:
            continue
    process.join(GRACE_SECONDS)


def dump_and_stop(process: ForkServerProcess) -> None:
    """Asks for a dump of all stacks into the log, then kills."""
    if process.pid is not None:
        try:
            os.kill(process.pid, signal.SIGCONT)  # a stopped process would not answer
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.5)
        except ProcessLookupError:
            pass
    stop(process)


def death(code: int | None) -> str:
    """Returns an exit code in words; a negative one is a signal's number, None an unknown one."""
    if code is None:
        return "no exit status"
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit status {code}"


def last_words(log: Path) -> str:
    """Says where a dead process's log is, and its last line, as the end of a sentence; empty where it left none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - LAST_BYTES))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f"; see {log}: {said[-1][:LAST_LETTERS]}" if said else ""
