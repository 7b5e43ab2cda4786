"""Standard output and standard error: nothing that is written there acts on a terminal, and neither can end a run.

All text passes here, whoever prints it, libraries included. `console.py`, which draws, has filtered its text itself.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from pipeline.shown import printable_lines, redacted

READER_ENDED = 128 + 13  # as if SIGPIPE had ended it, which is what shells and `pipefail` know
_PLAIN = str.maketrans(
    {
        "–": "-",
        "—": "-",
        "×": "x",
        "µ": "u",
        "▶": ">",
        "…": "...",
        "’": "'",
        "“": '"',
        "”": '"',
        "→": "->",
    }
)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks: our own signs as ASCII has them, all others as escapes."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("plainer", _plainer)


class Sink:
    """One stream of the process, which may fail: then what is written is dropped, and somebody is told once.

    Args:
        stream: the stream; None for one that was closed before the program started.
        number: its descriptor.
    """

    def __init__(self, stream: TextIO | None, number: int) -> None:
        self.stream = stream
        self.lost: OSError | None = None
        self.on_loss: Callable[[], None] = lambda: None
        self._number = number
        self._lock = threading.RLock()
        self._busy = False
        self._late: list[str] = []
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plainer")

    def put(self, text: str) -> None:
        """Writes text; a signal's handler may come in the midst of it, and write too."""
        with self._lock:
            self._late.append(text)
            self._guard(self._write)

    def flush(self) -> None:
        """Writes what is kept back."""
        with self._lock:
            self._guard(self._flush)

    def _write(self) -> None:
        while self._late:
            text = self._late.pop(0)
            if self.stream is None:
                raise OSError(errno.EBADF, "closed")
            self.stream.write(text)

    def _flush(self) -> None:
        if self.stream is not None:
            self.stream.flush()

    def _guard(self, action: Callable[[], None]) -> None:
        if self.lost is not None:
            self._late.clear()
            return
        if self._busy:
            return
        self._busy = True
        try:
            action()
        except OSError as error:
            self._lose(error)
        except ValueError:  # of a closed stream
            self._lose(OSError(errno.EBADF, "closed"))
        finally:
            self._busy = False

    def _lose(self, error: OSError) -> None:
        self.lost = error
        if self._own():  # what is kept back is written at the interpreter's end, and must not fail there again
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._number)
            os.close(null)
        self.on_loss()

    def _own(self) -> bool:
        try:
            return self.stream is not None and self.stream.fileno() == self._number
        except (OSError, ValueError):
            return False

    @property
    def reader_ended(self) -> bool:
        """Whether it was lost because its reader wanted no more."""
        return self.lost is not None and self.lost.errno == errno.EPIPE

    @property
    def why(self) -> str:
        """Why it was lost."""
        assert self.lost is not None
        return "its reader has ended" if self.reader_ended else self.lost.strerror or str(self.lost)


class ControlStream(io.TextIOBase):
    """A stream as somebody needs it who makes control sequences on purpose.

    Args:
        sink: where everything goes.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, text: str, /) -> int:
        """Writes text as it is."""
        self._sink.put(text)
        return len(text)

    def flush(self) -> None:
        """See `io.TextIOBase`; never raises."""
        self._sink.flush()

    def writable(self) -> bool:
        """See `io.TextIOBase`."""
        return True

    def isatty(self) -> bool:
        """See `io.TextIOBase`."""
        return self._sink.stream is not None and self._sink.lost is None and self._sink.stream.isatty()

    def fileno(self) -> int:
        """See `io.TextIOBase`."""
        if self._sink.stream is None:
            raise io.UnsupportedOperation("closed")
        return self._sink.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """See `io.TextIOBase`."""
        return getattr(self._sink.stream, "encoding", None) or "utf-8"


class Screen(ControlStream):
    """A stream for text: what would act on a terminal is shown as escapes, and no address tells its password."""

    def write(self, text: str, /) -> int:
        """Writes text, made harmless."""
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        self._sink.put(printable_lines(redacted(text)))
        return len(text)

    @property
    def controls(self) -> ControlStream:
        """The same stream for control sequences."""
        return ControlStream(self._sink)


class Streams:
    """The standard streams of one command.

    Attributes:
        works: whether the command does something beside printing: it goes on when nobody reads.
        document: whether standard output is one document for a program, which must be whole.
    """

    def __init__(self) -> None:
        self.works = False
        self.document = False
        self._out = Sink(sys.stdout, 1)
        self._err = Sink(sys.stderr, 2)
        self._out.on_loss = self._tell
        self.out, self.err = Screen(self._out), Screen(self._err)

    def _tell(self) -> None:
        if self.works and not self.document:
            self.err.write(f"ablate: standard output: {self._out.why}; the work goes on, unseen\n")
            self.err.flush()

    def settled(self, code: int) -> int:
        """Writes what is kept back; returns the exit code, given the one of a command whose output was all written."""
        self._out.flush()
        if self._out.lost is not None and (self.document or not self.works):
            if self._out.reader_ended and not self.works:
                code = code or READER_ENDED
            else:
                what = "the document" if self.document else "the output"
                self.err.write(f"ablate: standard output: {self._out.why}; {what} is not whole\n")
                code = code or 3
        self._err.flush()
        return code


@contextmanager
def guarded() -> Iterator[Streams]:
    """Puts both standard streams behind `Screen`."""
    _occupy()
    before = sys.stdout, sys.stderr
    streams = Streams()
    sys.stdout, sys.stderr = streams.out, streams.err
    try:
        yield streams
    finally:
        streams.out.flush()
        streams.err.flush()
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Closed standard streams become the null device: a file that took such a number would get what is printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            continue
        if number and not os.get_blocking(number):
            os.set_blocking(number, True)  # whoever left it so reads slowly, which is no failure


def controls(stream: TextIO) -> TextIO:
    """The stream for control sequences: `Screen`'s own, and any other stream itself."""
    return stream.controls if isinstance(stream, Screen) else stream  # type: ignore[return-value]
