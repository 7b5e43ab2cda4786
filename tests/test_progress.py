"""Tasks that take a while: a terminal sees how far they are, a log one line, and short ones say nothing."""

from __future__ import annotations

import io
import sys

import pytest

from pipeline import progress
from pipeline.progress import long_task


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("terminal", "said"),
    [(True, "\rhashing x\\x1b 1,500/2,000\rhashing x\\x1b 1,700/2,000\r\x1b[K"), (False, "hashing x\\x1b (2,000)\n")],
)
def test_a_long_task_is_told(terminal: bool, said: str, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(terminal))
    with long_task("hashing x\x1b", 2000) as tell:
        for second, done in ((0.1, 100), (2.1, 1500), (2.15, 1600), (3.0, 1700)):
            clock[0] = second
            tell(done)
    assert stream.getvalue() == said


@pytest.mark.parametrize("terminal", [True, False])
def test_a_short_one_says_nothing(terminal: bool, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(terminal))
    with long_task("hashing", 2000) as tell:
        clock[0] = 0.4
        tell(2000)
    assert stream.getvalue() == ""


def test_nobody_is_told_where_there_is_no_standard_error(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with long_task("hashing", 2) as tell:
        clock[0] = 9.0
        tell(1)
