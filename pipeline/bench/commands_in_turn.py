"""Whole processes of two commands, one of each in turn: what one of them costs over the other.

Two runs that follow each other have the machine in nearly the same state; ten of one and then ten of the other have
not. Within a pair the order is drawn, so that whatever the second place costs falls on both alike.
"""

from __future__ import annotations

import math
import random
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.analysis.looks import Look, plan_looks, ratio_at
from pipeline.children import finished_command
from pipeline.errors import InputError, OutsideError
from pipeline.shown import printable, redacted

WALL = "seconds"  # what is compared without a metric
_CHARACTERS = 200  # characters of a failed command's last line
_METRIC = re.compile(r"METRIC\s+([^\s=]+)=(\S+)")


@dataclass(frozen=True)
class Contest:
    """What is compared, and until when.

    Attributes:
        commands: words of A and of B.
        metric: name of the value that they print as `METRIC name=value`; None for the time that they take.
        higher_is_better: whether more of it is better.
        margin: how much worse B may be, as a fraction, before that counts.
        precision: half width of the interval, as a fraction, with which "no difference" is precise enough.
        first, last: pairs at the first and at the last look.
        warmups: runs of each that are thrown away first: they fill caches.
        timeout: longest time of one run, in s.
        seed: of the order within the pairs.
    """

    commands: tuple[tuple[str, ...], tuple[str, ...]]
    metric: str | None = None
    higher_is_better: bool = False
    margin: float = 0.0
    precision: float = 0.01
    first: int = 8
    last: int = 40
    warmups: int = 1
    timeout: float = 3600.0
    seed: int = 0

    @property
    def looks(self) -> tuple[Look, ...]:
        """When the pairs are looked at."""
        return plan_looks(self.first, self.last)


@dataclass(frozen=True)
class Standing:
    """What the pairs say.

    Attributes:
        pairs: how many there are.
        ratio, low, high: cost of B over that of A with an interval that holds whenever it was stopped; above 1 B is
            worse. Without 2 pairs they are NaN.
        verdict: `worse` or `better` (of B), `same` within the precision, `no worse` than by the margin, or `undecided`.
    """

    pairs: int
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass
class Measured:
    """Values of the pairs so far.

    Attributes:
        values: of A and of B, pair by pair.
        b_first: whether B ran first, pair by pair.
    """

    values: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    b_first: list[bool] = field(default_factory=list)

    def logs(self, higher_is_better: bool) -> list[float]:
        """Log of B's cost over A's, pair by pair."""
        sign = -1.0 if higher_is_better else 1.0
        return [sign * math.log(b / a) for a, b in zip(*self.values, strict=True)]


def words_of(text: str, name: str) -> tuple[str, ...]:
    """The words of a command line, whose program is there.

    Args:
        text: as a shell would take it; no shell runs it, so pipes and variables need `sh -c '..'`.
        name: `COMMAND_A` or `COMMAND_B`.

    Raises:
        InputError: it is none, or there is no such program.
    """
    allowed = "allowed: a program and its arguments (`sh -c '..'` for anything else)"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(f"{name}: {redacted(text)[:_CHARACTERS]!r} is not allowed ({error}); {allowed}") from None
    if not words or not words[0] or "\0" in text or not _encodable(text):
        raise InputError(f"{name}: {redacted(text)[:_CHARACTERS]!r} is not allowed; {allowed}")
    try:
        found = shutil.which(words[0])
    except OSError:  # a name that is too long
        found = None
    if found is None:
        raise InputError(f"{name}: there is no program {redacted(words[0])[:_CHARACTERS]!r}; {allowed}")
    return words


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True


def run_in_turn(
    contest: Contest, note: Callable[[Standing], None], deadline: float | None = None
) -> tuple[Standing, Measured]:
    """Runs pairs until the verdict is known, or there are enough, or it is time.

    Args:
        contest: what is compared.
        note: is given every look.
        deadline: `time.monotonic()` after which no run begins; None for none.

    Returns:
        The last look, and all values.

    Raises:
        OutsideError: a command failed, took too long, or did not print the metric.
    """
    measured = Measured()
    order = random.Random(contest.seed)
    for _ in range(contest.warmups):
        for side in (0, 1):
            _run(contest, side)
    late = False
    standing = Standing(0, math.nan, math.nan, math.nan, "undecided")
    for look in contest.looks:
        while len(measured.b_first) < look.pairs and not late:
            _add_pair(contest, measured, order.random() < 0.5)
            late = deadline is not None and time.monotonic() >= deadline
        standing = stand(contest, look, measured)
        note(standing)
        if late or standing.verdict != "undecided":
            break
    return standing, measured


def stand(contest: Contest, look: Look, measured: Measured) -> Standing:
    """What the pairs say at a look.

    Args:
        contest: what is compared.
        look: which one. Where time was over before it there are fewer pairs: no value decides that, so the level holds.
        measured: the pairs.
    """
    logs = measured.logs(contest.higher_is_better)
    if len(logs) < 2:
        return Standing(len(logs), math.nan, math.nan, math.nan, "undecided")
    ratio, low, high = ratio_at(look, logs)
    verdict = "undecided"
    if low > 1 + contest.margin:
        verdict = "worse"
    elif high < 1:
        verdict = "better"
    elif low > 1 / (1 + contest.precision) and high < 1 + contest.precision:
        verdict = "same"
    elif contest.margin and high < 1 + contest.margin:
        verdict = "no worse"
    return Standing(len(logs), ratio, low, high, verdict)


def _add_pair(contest: Contest, measured: Measured, b_first: bool) -> None:
    sides = (1, 0) if b_first else (0, 1)
    values = {side: _run(contest, side) for side in sides}
    for side in (0, 1):
        measured.values[side].append(values[side])
    measured.b_first.append(b_first)


def _run(contest: Contest, side: int) -> float:
    """Runs a command once; returns what it cost, or its metric."""
    name = "AB"[side]
    try:
        done = finished_command(contest.commands[side], timeout=contest.timeout)
    except TimeoutError:
        raise OutsideError(f"command {name} did not end within {contest.timeout:g} s (--timeout)") from None
    except OSError as error:
        raise OutsideError(f"command {name} cannot be run: {error.strerror or error}") from None
    if done.code:
        how = f"exit status {done.code}" if done.code > 0 else f"signal {-done.code}"
        last = next((line for line in reversed(done.err.splitlines()) if line.strip()), "")
        told = f": {printable(redacted(last))[:_CHARACTERS]}" if last else ""
        raise OutsideError(f"command {name} failed with {how}{told}")
    if contest.metric is None:
        return done.seconds
    found = list(_values(done.out, contest.metric))
    if not found:
        raise OutsideError(f"command {name} has not printed METRIC {contest.metric}=VALUE on a line of its own")
    if not (math.isfinite(found[-1]) and found[-1] > 0):
        raise OutsideError(f"command {name} has printed METRIC {contest.metric}={found[-1]:g}; allowed: above 0")
    return found[-1]


def _values(text: str, metric: str) -> Iterator[float]:
    for line in text.splitlines():
        match = _METRIC.fullmatch(line.strip())
        if match and match.group(1) == metric:
            try:
                yield float(match.group(2))
            except ValueError:
                yield math.nan
