"""What nobody has foreseen: one line for people, the traceback in a file that the line names."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline import paths
from pipeline.errors import first_line
from pipeline.files import appending

ERROR_LOG_BYTES = 2**20  # then the log begins anew
_NAME = "errors.log"


def told(error: BaseException) -> str:
    """Keeps an error with its traceback, and returns the line that says so.

    Args:
        error: any exception.
    """
    return f"{_named(error)} ({_kept(''.join(traceback.format_exception(error)))})"


@contextmanager
def kept() -> Iterator[None]:
    """Within it, what fails in other threads and what libraries warn of goes to the log; the first failure is told."""
    seen: list[str] = []

    def keep(line: str, text: str) -> None:
        where = _kept(text)
        if not seen:
            print(f"ablate: {line} ({where})", file=sys.stderr, flush=True)
        seen.append(line)

    def of_thread(failed: threading.ExceptHookArgs) -> None:
        text = "".join(traceback.format_exception(failed.exc_type, failed.exc_value, failed.exc_traceback))
        keep(_named(failed.exc_value or failed.exc_type()), text)

    def unraisable(failed: Any) -> None:
        error = failed.exc_value or failed.exc_type()
        keep(_named(error), "".join(traceback.format_exception(failed.exc_type, error, failed.exc_traceback)))

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG001 - warnings calls it so
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        if paths.STATE_DIR.is_dir():  # of libraries among each other: nobody else can do anything about it
            _kept(f"{filename}:{lineno}: {category.__name__}: {message}\n")

    before = threading.excepthook, sys.unraisablehook, warnings.showwarning
    threading.excepthook, sys.unraisablehook, warnings.showwarning = of_thread, unraisable, warned
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, warnings.showwarning = before


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _kept(text: str) -> str:
    """Appends to the log; returns in words where it is."""
    try:
        if paths.STATE_DIR.is_dir():
            path = paths.STATE_DIR / _NAME
        else:  # a command that only looks makes no state folder
            file, name = tempfile.mkstemp(prefix="ablate-", suffix=f"-{_NAME}")
            os.close(file)
            path = Path(name)
        with appending(path) as stream:
            if os.fstat(stream.fileno()).st_size > ERROR_LOG_BYTES:
                stream.truncate(0)
            stream.write(text.encode(errors="backslashreplace"))
    except OSError as error:
        return f"its details could not be kept: {error.strerror or error}"
    return f"details in {path}"
