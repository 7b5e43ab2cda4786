"""What every input has to leave intact: exit codes, one line, no other folder, no process, no network."""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import AblateError
from tests.support.ablate import ROOT, Result, ablate_in_process

SECONDS = 10.0  # for one input
# event -> (which argument is the place, which the descriptor of the folder that it is relative to)
_WRITES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.rename": ((0, 2), (1, 3)),
}
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pty.spawn"}
_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.bind"}
_HARMLESS = {"/dev/null", "/dev/tty"}


class Violation(AssertionError):  # noqa: N818 - it is what a fuzzer looks for
    """An input that broke a promise.

    Args:
        key: what is the same for all inputs of one fault.
        text: what was seen.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}")
        self.key = key


_at_work: list[Guard] = []


def _see(event: str, given: tuple[Any, ...]) -> None:
    for guard in tuple(_at_work):
        guard.see(event, given)


@cache
def _install() -> None:
    """Has the interpreter tell what it does, once: this cannot be undone."""
    sys.addaudithook(_see)


class Guard:
    """Looks at what the interpreter does while an input is tried; what would do harm outside is refused.

    Args:
        folder: where writing is allowed.
        secrets: files that nobody may read.
    """

    def __init__(self, folder: Path, secrets: tuple[Path, ...] = ()) -> None:
        # The delivery's thread imports MLflow's errors when a delivery fails for the first time, and that import binds
        # a socket (is there IPv6?) and asks `uname`.
        importlib.import_module("mlflow.exceptions")
        self._folder = f"{folder.resolve()}{os.sep}"
        self._secrets = {str(path.resolve()) for path in secrets}
        self._lenient = False
        self.seen: list[str] = []

    @contextmanager
    def watching(self, lenient: bool = False) -> Iterator[None]:
        """The block is looked at.

        Args:
            lenient: what is refused is no fault: the input names a place or an address itself.
        """
        self.seen, self._lenient = [], lenient
        _install()
        _at_work.append(self)
        try:
            yield
        finally:
            _at_work.remove(self)
        if self.seen:
            raise Violation(self.seen[0].partition(" ")[0], self.seen[0])

    def see(self, event: str, given: tuple[Any, ...]) -> None:
        """Looks at one of Python's audit events.

        Raises:
            PermissionError: it would do harm.
        """
        if event == "open":
            path, mode, flags = given
            writing = bool(set(str(mode or "")) & set("wax+")) if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
            if isinstance(path, str | bytes) and os.fsdecode(path) in self._secrets:
                self._refuse("read", path)
            elif writing:
                self._inside(event, path)
        elif event in _WRITES:
            for place, within in _WRITES[event]:
                self._inside(event, given[place], -1 if within is None else given[within])
        elif event in _STARTS:
            self._refuse(event, given[0])
        elif event in _NETWORK and not str(given[-1]).startswith("/"):
            self._refuse(event, given[1:])

    def _inside(self, event: str, path: Any, within: int = -1) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor: its opening was looked at
        place = os.fsdecode(path)
        if place in _HARMLESS or "\0" in place:
            return
        start = Path.cwd() if within < 0 else Path(f"/proc/self/fd/{within}").resolve()
        folder = start.joinpath(place).parent.resolve()
        if not f"{folder}{os.sep}".startswith(self._folder):
            self._refuse(event, place)

    def _refuse(self, event: str, what: Any) -> None:
        if not self._lenient:
            self.seen.append(f"{event} {what!r}")
        raise PermissionError(13, "not within the sandbox", str(what)[:200])


def preload(*modules: str) -> None:
    """Imports what commands import late: libraries ask the system for much when they are first imported.

    Args:
        modules: of the package, or of others with their whole name.
    """
    for module in modules:
        importlib.import_module(f"pipeline{module}" if module.startswith(".") else module)


def command(*words: str, cwd: Path, codes: tuple[int, ...] = (0, 2, 3)) -> Result:
    """Runs a command in this process and holds it to its promises.

    Args:
        words: of the command line.
        cwd: the folder to run in.
        codes: exit codes that are allowed.
    """
    result = ablate_in_process(*words, cwd=cwd, data_dir=cwd / "data")
    if "Traceback (most recent" in result.err + result.out:
        raise Violation(f"traceback {result.err.strip().splitlines()[-1][:80]}", result.err)
    if result.code not in codes:
        raise Violation(f"exit code {result.code}", f"{words} {result.err}")
    if result.code and len(result.lines) != 1:
        raise Violation(f"{len(result.lines)} lines", result.err)
    check_text(result.err)
    return result


def check_text(text: str) -> None:
    """A terminal is not told to do anything."""
    for character in text:
        if character not in "\n\t" and (
            ord(character) < 32 or character in "\x7f\x9b\u202a\u202b\u202d\u202e\u2066\u2067"
        ):
            raise Violation("control character", repr(text[:500]))


def check_error(error: AblateError) -> None:
    """The message is one line that says something."""
    if not str(error).strip():
        raise Violation("empty message", type(error).__name__)


def tried(one: Callable[[bytes], None], data: bytes) -> Violation | None:
    """Tries one input; returns what it broke."""
    began, cpu = time.monotonic(), time.process_time()
    try:
        one(data)
    except AblateError as error:
        try:
            check_error(error)
        except Violation as found:
            return found
    except Violation as found:
        return found
    except RecursionError as error:
        return Violation(f"RecursionError {_where(error)}", "")
    except Exception as error:
        return Violation(f"{type(error).__name__} {_where(error)}", f"{error}"[:500])
    if (used := time.process_time() - cpu) > SECONDS:
        return Violation("slow", f"{used:.0f} s of CPU time")
    if (waited := time.monotonic() - began) > SECONDS and used < 1:
        return Violation("waits", f"{waited:.0f} s")
    return None


def _where(error: BaseException) -> str:
    """The innermost function of the package that an exception came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{ROOT}/pipeline" in frame.filename]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}" if frames else "outside"
