"""Calls functions in processes that nothing has run in before, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.children import process_context
from pipeline.errors import AblateError, OutsideError, first_line
from pipeline.files import open_own
from pipeline.host import leave_signals_to_parent, process_environment


class FreshProcesses:
    """A process for each call.

    Args:
        log: takes what the processes print.
        preload: fork them from a server that has torch and the contenders imported; otherwise each one is a new
            interpreter, so that its memory is its own.
    """

    def __init__(self, log: Path, *, preload: bool) -> None:
        self._log = log
        os.environ.update(process_environment())
        context = process_context("forkserver" if preload else "spawn")
        if preload:
            context.set_forkserver_preload(["pipeline.bench.loops.preload"])
        self._pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        if kind is not None:  # interrupted: the call at work is not waited for
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a module's function in a new process and returns what it returns.

        Raises:
            AblateError: as the function did.
            OutsideError: anything else that it raised, or the process died.
        """
        try:
            return self._pool.submit(_logged, str(self._log.absolute()), function, arguments).result()
        except AblateError:
            raise
        except BrokenProcessPool:
            raise OutsideError(f"benchmark process died (out of memory?){self._last_line()}") from None
        except Exception as error:
            raise OutsideError(f"benchmark process: {type(error).__name__}: {first_line(error)}") from None

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return f": {lines[-1][:200]}" if lines else ""


def _logged(log: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In the process: libraries chat into the log, and the parent says when it is to end."""
    leave_signals_to_parent()
    file = open_own(Path(log), os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    return function(*arguments)
