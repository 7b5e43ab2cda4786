"""Decisions out of a fuzzer's bytes: the same bytes decide the same, and few changed bytes change little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# what programs stumble over
TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "1",
    "on",
    "off",
    "true",
    "null",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e999999",
    "9" * 5000,
    "0x" + "f" * 3000,
    "1:30",
    "064",
    "\0",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "\U0001f600",
    "a" * 300,
    "a" * 70_000,
    "../../x",
    "/etc/passwd",
    "file:///etc/passwd",
    "%2e%2e/x",
    "{}",
    "[]",
    "'",
    '"',
    "=cmd|' /C calc'!A0",
    "<script>",
    "a,b",
    "a=b",
    "a\nb",
    "a\rb",
    "http://u:p@[::1/x",
    "sqlite:///",
    "١٢",
    "finished",
    "running",
    "run",
    "grid",
    "tune",
    "baseline",
)
NUMBERS = (0, 1, -1, 2, 10**6, 2**31, 2**40, 2**63 - 1, -(2**63), 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"))


class Choices:
    """Takes decisions from bytes; when they are used up, every decision is the first.

    Args:
        data: of the fuzzer.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> bool:
        """Whether there are bytes left."""
        return self._place < len(self._data)

    def below(self, count: int) -> int:
        """A number from 0 up to `count` - 1."""
        size = 1 if count <= 256 else 3
        taken = self._data[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken, "big") % max(count, 1)

    def pick(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.below(len(values))]

    def text(self) -> str:
        """One of the texts above, or one of the fuzzer's own."""
        if self.below(3):
            return self.pick(TEXTS)
        size = self.below(40)
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken.decode("utf-8", "surrogateescape")

    def value(self) -> Any:
        """A value that JSON and SQLite can hold."""
        kind = self.below(5)
        if kind < 2:
            return self.text()
        return (self.pick(NUMBERS), None, self.text().encode("utf-8", "surrogatepass"))[kind - 2]

    def rest(self) -> bytes:
        """All that is left."""
        taken = self._data[self._place :]
        self._place = len(self._data)
        return taken

    def damaged(self, content: bytes) -> bytes:
        """Content with some bytes changed, taken out or put in, or cut off."""
        raw = bytearray(content)
        for _ in range(1 + self.below(6)):
            kind, place = self.below(4), self.below(len(raw) or 1)
            if kind == 0 and raw:
                raw[place] = self.below(256)
            elif kind == 1:
                del raw[place : place + 1 + self.below(64)]
            elif kind == 2:
                raw[place:place] = self.text().encode("utf-8", "surrogatepass")[:64]
            else:
                del raw[place:]
        return bytes(raw)
