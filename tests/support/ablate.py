"""The one way in which tests run `ablate`: in a process, waited for or watched, or within the test's own process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TELL_MODULES = """
import sys
from pipeline.cli import main
try:
    main(sys.argv[1:])
finally:
    print()
    print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
ROOT = Path(__file__).parents[2]
SETTINGS = ("ABLATE_", "MLFLOW_")  # prefixes of variables by which a user sets what the program does


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        code: its exit code.
        out: all of its standard output.
        err: all of its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on standard error that are not empty."""
        return [line for line in self.err.splitlines() if line.strip()]

    @property
    def line(self) -> str:
        """The one line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]

    def json(self, code: int = 0) -> Any:
        """The document on standard output of a command that ended with `code`."""
        assert self.code == code, f"exit code {self.code}\n{self.out}\n{self.err}"
        return json.loads(self.out)


def environment(**extra: str) -> dict[str, str]:
    """The test's environment without the settings of whoever runs it, and with these sources ahead of others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*SETTINGS, "PYTEST"))}
    quiet = {"TERM": "dumb", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": python_path()}
    return {**kept, **quiet, **extra}


def python_path() -> str:
    """The variable `PYTHONPATH` with these sources ahead: those that are installed may be another checkout's."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, given)]))


def command_line(*words: str, python: Sequence[str] = ()) -> list[str]:
    """The command line of `ablate`, for a pipe or a program that starts it; `python` are the interpreter's options."""
    return [sys.executable, *python, "-m", "pipeline", *words]


def start_ablate(
    *words: str,
    cwd: Path,
    data_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    python: Sequence[str] = (),
    **settings: Any,
) -> subprocess.Popen[str]:
    """Starts a command in a process group of its own; `ended` waits for it.

    Args:
        words: of the command line.
        cwd: the folder to run in.
        data_dir: where its data sets are; unset for the folder's own.
        env: variables beside those of `environment`.
        python: options of the interpreter.
        settings: further ones of `Popen`.
    """
    return subprocess.Popen(
        command_line(*words, python=python),
        cwd=cwd,
        env=environment(**_variables(data_dir, env)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **settings,
    )


def ended(process: subprocess.Popen[str], timeout: float = 120) -> Result:
    """Waits `timeout` seconds for a command; a hanging one is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end within {timeout} s\n{out}\n{err}") from None
    return Result(process.returncode, out, err)


def run_ablate(
    *words: str,
    cwd: Path,
    data_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 280,
    **settings: Any,
) -> Result:
    """Runs a command to its end in a process, as `start_ablate` starts it."""
    return ended(start_ablate(*words, cwd=cwd, data_dir=data_dir, env=env, **settings), timeout)


def modules_of_ablate(*words: str, cwd: Path) -> tuple[Result, set[str]]:
    """Runs a command in a process; returns its end and the top-level modules that it has loaded, its children not."""
    process = subprocess.Popen(
        [sys.executable, "-c", _TELL_MODULES, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    result = ended(process)
    return result, set(result.out.splitlines()[-1].split())


def ablate_in_process(
    *words: str, cwd: Path, data_dir: Path | None = None, env: Mapping[str, str] | None = None
) -> Result:
    """Runs a command in this process (its runs have processes of their own), which spares seconds of imports.

    Variables that the test has set apply; what the command sets is put back.
    """
    from pipeline.cli import main

    out, err = io.StringIO(), io.StringIO()
    before, argv = dict(os.environ), sys.argv
    sys.argv = ["ablate", *words]  # which commands keep with what they measured
    os.environ.update(_variables(data_dir, env))
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(words))
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return Result(stop.code, out.getvalue(), err.getvalue())
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.argv = argv
    raise AssertionError("a command ends with an exit code")


def _variables(data_dir: Path | None, env: Mapping[str, str] | None) -> dict[str, str]:
    return {**({"ABLATE_DATA_DIR": str(data_dir)} if data_dir else {}), **(env or {})}
