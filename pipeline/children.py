"""How the package starts processes: all of them here, so that none imports from the working folder.

That folder holds a user's own files, and somebody else's where it is shared: a `torch.py` in it is not ours to run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.import_path import leave_folder, path_environment


def process_context(method: Literal["fork", "forkserver", "spawn"]) -> Any:
    """Multiprocessing's context of a start method, once neither this process nor its children import from the folder.

    A forked process has this one's import path, also one forked from a server: multiprocessing hands it on.
    """
    leave_folder()
    return multiprocessing.get_context(method)


def run_python(code: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs Python code in an interpreter of its own and takes its output.

    Args:
        code: the program.
        timeout: longest time in s.
    """
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **path_environment()},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_module(name: str, *words: str, environment: Mapping[str, str], **settings: Any) -> subprocess.Popen[bytes]:
    """Starts a module as a program, in an interpreter of its own.

    Args:
        name: of the module.
        words: of its command line, which everybody on this machine can read: no secret belongs there.
        environment: its variables.
        settings: further ones of `Popen`.
    """
    command = [sys.executable, "-P", "-m", name, *words]
    return subprocess.Popen(command, env={**environment, **path_environment()}, **settings)


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        code: exit status, negative for a signal.
        seconds: from its start to its end.
        out, err: what it printed; bytes that are no text are replaced.
    """

    code: int
    seconds: float
    out: str
    err: str


def finished_command(words: Sequence[str], timeout: float) -> Finished:
    """Runs a user's own command, in the user's environment, to its end; none of its processes outlives the call.

    Args:
        words: program and arguments.
        timeout: longest time in s.

    Raises:
        TimeoutError: it took longer.
        OSError: it cannot be started.
    """
    born: Future[subprocess.Popen[str]] = Future()
    may_start = threading.Event()

    def start() -> None:
        may_start.wait()
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except BaseException as error:
            born.set_exception(error)
        else:
            born.set_result(process)

    # A signal's exception comes to the main thread, and between the birth of a process and the end of `Popen` nobody
    # would know whom to end: a thread starts it, and is waited for in any case. It is alive before it may start
    # anything, since a signal may come in the midst of a thread's start, too.
    starter = threading.Thread(target=start, daemon=True, name="start of a command")
    starter.start()
    began = time.perf_counter()
    try:
        may_start.set()
        process = born.result()
        out, err = process.communicate(timeout=timeout)
        return Finished(process.returncode, time.perf_counter() - began, out, err)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{timeout:g} s") from None
    finally:
        may_start.set()
        starter.join()
        if born.exception() is None:  # it may have ended, and others in its group not
            process = born.result()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def finished_module(name: str, *words: str, timeout: float) -> Finished:
    """Runs a module of an installed library to its end, as `python -m` does, with nothing from the working folder.

    Args:
        name: the module's.
        words: arguments.
        timeout: longest time in s.

    Raises:
        TimeoutError: it took longer.
    """
    return finished_command([sys.executable, "-P", "-m", name, *words], timeout)


def output_of(program: str, *words: str, timeout: float) -> str:
    """Runs another program and returns what it prints.

    Args:
        program: its name; looked for in the absolute folders of `PATH` alone.
        words: of its command line.
        timeout: longest time in s.

    Raises:
        OSError, subprocess.SubprocessError: it is not there, failed, or took too long.
    """
    folders = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part.startswith("/")]
    found = shutil.which(program, path=os.pathsep.join(folders))
    if found is None:
        raise FileNotFoundError(program)
    run = subprocess.run([found, *words], capture_output=True, text=True, timeout=timeout, check=True)
    return run.stdout.strip()
