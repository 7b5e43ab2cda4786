"""Prefetching: a background thread that fills a ring of buffers before its consumer asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Self

NAME = "prefetch"
# batches that the consumer may still read while it asks for one more: the one that it holds
HELD = 1


class Prefetcher:
    """Calls `fill(0)`, `fill(1)`, ... in a thread, at most as far ahead as there are buffers.

    A context manager: the thread starts on entering and has ended on leaving, whatever happened in between. An error
    of `fill` is raised by the `wait` for that batch.

    Args:
        fill: fills the buffer of a batch, given its number from 0; must end by itself.
        count: number of batches.
        buffers: number of batches that fit; more than `HELD` + 1, or nothing would be prefetched.
    """

    def __init__(self, fill: Callable[[int], None], count: int, buffers: int) -> None:
        self._fill, self._count = fill, count
        self._free = threading.Semaphore(buffers)
        self._filled: SimpleQueue[BaseException | None] = SimpleQueue()
        self._stop = False
        self._asked = 0
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def wait(self) -> None:
        """Waits for the next batch; the one before the last is given back for filling.

        Raises:
            BaseException: what `fill` raised.
        """
        if self._asked > HELD:
            self._free.release()
        self._asked += 1
        error = self._filled.get()
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            for number in range(self._count):
                self._free.acquire()
                if self._stop:
                    return
                self._fill(number)
                self._filled.put(None)
        except BaseException as error:  # the consumer raises it
            self._filled.put(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        self._free.release()
        self._thread.join()
