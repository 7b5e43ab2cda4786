"""Commands with a time limit: what a stage runs, where its output goes, how it is ended."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 10.0  # from asking to killing: `ablate` closes its rows in this time
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit status, negative for a signal.
        seconds: how long it ran.
        late: it was stopped at its limit.
    """

    code: int
    seconds: float
    late: bool


def call(
    words: Sequence[str],
    *,
    limit: float,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    out: Path | None = None,
    grace: float = GRACE_SECONDS,
) -> Ended:
    """Runs a command in a process group of its own, for `limit` seconds at most.

    At the limit the group gets SIGINT, as from a terminal: `ablate` then closes its rows and ends with 130. What is
    left of it `grace` seconds later is killed.

    Args:
        words: the command.
        limit: seconds.
        log: takes its output, behind what is there.
        env: its environment.
        cwd: its working folder.
        out: takes its standard output instead of the log.
        grace: seconds between SIGINT and SIGKILL.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("ab") as stream, (out or log).open("wb" if out else "ab") as standard:
        stream.write(f"$ {shlex.join(words)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=standard if out else stream,
            stderr=stream,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        late = False
        _running.add(process)
        try:
            process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            late = True
            stop(process, grace)
        except BaseException:  # this script is interrupted: nothing may be left running
            stop(process, grace)
            raise
        finally:
            _running.discard(process)
        seconds = time.monotonic() - began
        ending = f"stopped at its limit of {limit:.0f} s, " if late else ""
        stream.write(f"# {ending}exit status {process.returncode} after {seconds:.1f} s\n".encode())
    return Ended(process.returncode, seconds, late)


def stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """Interrupts a command's process group, and kills what does not end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with suppress(ProcessLookupError):  # also when the leader has ended: its children may not have
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop_all() -> None:
    """Ends what other threads still run."""
    for process in list(_running):
        stop(process, GRACE_SECONDS)


def last_line(log: Path) -> str:
    """The last line of a command's output that says something."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "$"))]
    return said[-1][:300] if said else ""
