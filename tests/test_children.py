"""Processes that the package starts import nothing from the working folder; and nothing else starts any."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.children import finished_command, output_of, process_context, run_python, start_module

PACKAGE = Path(pipeline.__file__).parent
STARTERS = {  # module -> what of it makes a process
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "pty": {"fork", "spawn"},
    "multiprocessing": {"Process", "Pool", "Manager", "get_context", "set_start_method"},
    "os": {"fork", "forkpty", "system", "popen", "posix_spawn", "posix_spawnp", "startfile"},
    "platform": {"platform", "processor"},  # they start `uname`
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}
POOLS = ("ProcessPoolExecutor",)  # their context is given


def starts_of(tree: ast.AST) -> list[str]:
    """What a source uses to start processes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in STARTERS:
            found += [f"{node.module}.{one.name}" for one in node.names if one.name in STARTERS[node.module]]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            home, _, last = name.rpartition(".")
            pool = last in POOLS and "mp_context" not in {word.arg for word in node.keywords}
            if pool or last in STARTERS.get(home, ()) or (home == "os" and last.startswith(("exec", "spawn"))):
                found.append(name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable":
            found.append("sys.executable")
    return found


def test_the_reader_sees_what_starts_a_process() -> None:
    calls = ("subprocess.run(a)", "from os import fork", "os.execv(a)", "multiprocessing.get_context()")
    found = starts_of(ast.parse("\n".join([*calls, "a = sys.executable", "ProcessPoolExecutor(1)"])))
    assert len(found) == len(calls) + 2
    harmless = ("os.getpid()", "ProcessPoolExecutor(1, mp_context=a)", "import os, sys, subprocess")
    assert starts_of(ast.parse("\n".join(harmless))) == []


def test_one_module_starts_processes() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): starts
        for path in sorted(PACKAGE.rglob("*.py"))
        if (starts := starts_of(ast.parse(path.read_text())))
    }
    assert set(found) == {"children.py"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of a library's name, and every way in."""
    for name in ("selectors", "zipapp"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the folder was imported from')\n")
    (tmp_path / "git").write_text("#!/bin/sh\necho ours\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":{os.environ['PYTHONPATH']}:.")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_code_and_modules_come_from_elsewhere() -> None:
    found = run_python("import selectors, zipapp, pipeline; print('well')", timeout=60)
    assert found.stdout == "well\n", found.stderr
    process = start_module("zipapp", "--help", environment=os.environ, stdout=subprocess.PIPE)
    assert b"usage" in process.communicate(timeout=60)[0]


def imports(connection: object) -> None:
    import zipapp

    connection.send(zipapp.__file__)  # type: ignore[attr-defined]


def test_a_forked_process_too(folder: Path) -> None:
    context = process_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=imports, args=(theirs,))
    process.start()
    theirs.close()
    assert Path(ours.recv()).parent != folder
    process.join()


def test_another_program_is_not_looked_for_in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}")
    assert "git version" in output_of("git", "--version", timeout=20)
    monkeypatch.setenv("PATH", ":.")
    with pytest.raises(OSError, match="git"):
        output_of("git", "--version", timeout=20)
    monkeypatch.setenv("PATH", str(folder))
    assert output_of("git", timeout=20) == "ours"


def test_a_signal_in_the_midst_of_a_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is alive, and whoever starts it does not know it yet."""
    born: list[int] = []

    class SlowToTell(subprocess.Popen):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            born.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    monkeypatch.setattr(subprocess, "Popen", SlowToTell)
    with default_interrupt(), pytest.raises(KeyboardInterrupt):
        finished_command(["sleep", "300"], timeout=60)
    assert len(born) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(born[0], 0)


def test_a_signal_in_the_midst_of_a_threads_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that starts the command lives already, and whoever started it does not know it yet."""
    born: list[int] = []

    class Noted(subprocess.Popen):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            born.append(self.pid)
            time.sleep(0.4)

    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    monkeypatch.setattr(threading, "Thread", Interrupted)
    with default_interrupt(), pytest.raises(KeyboardInterrupt):
        finished_command(["sleep", "300"], timeout=60)
    time.sleep(0.4)
    for pid in born:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@contextmanager
def default_interrupt() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where whoever runs the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
