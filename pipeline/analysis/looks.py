"""Ratios that are looked at several times: levels for the looks under which all the intervals hold together.

**The rule.** The share of wrong intervals that is allowed, 5 %, is given out to the looks beforehand, and an interval
is made at the level of its own look. By Boole's inequality the chance that any of them misses is at most their sum,
whatever decides when to stop and however the looks depend on each other: a difference may be claimed at the first look
that shows one. Most of it goes to the first look, at which a difference of twice the noise is to be seen; the later
ones, each of half as many pairs again, are for small differences, which need many pairs, and lose little by a small
share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis.student_t import mean_interval

MISSES = 0.05  # chance that any look's interval misses
FIRST_SHARE = 0.8  # of it, for the first look
GROWTH = 1.5  # pairs of a look over those of the look before


@dataclass(frozen=True)
class Look:
    """When a ratio is looked at, and how sure its interval is.

    Attributes:
        pairs: how many there are then.
        level: chance that the interval of this look misses.
    """

    pairs: int
    level: float


def plan_looks(first: int, last: int) -> tuple[Look, ...]:
    """The looks from a first to a last number of pairs.

    Args:
        first: pairs at the first look, from 2 on.
        last: pairs at the last one, not fewer.

    Raises:
        ValueError: they are no such numbers.
    """
    if not 2 <= first <= last:
        raise ValueError(f"{first} and {last} pairs")
    counts = [first]
    while counts[-1] < last:
        counts.append(min(last, math.ceil(counts[-1] * GROWTH)))
    if len(counts) == 1:
        return (Look(first, MISSES),)
    rest = MISSES * (1 - FIRST_SHARE) / (len(counts) - 1)
    return Look(first, MISSES * FIRST_SHARE), *(Look(count, rest) for count in counts[1:])


def ratio_at(look: Look, logs: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of paired ratios and its interval at a look, by Student's t.

    Args:
        look: of `plan_looks`.
        logs: logarithms of the ratios, one for each pair, at least 2.

    Returns:
        (ratio, low, high).
    """
    mean, low, high = mean_interval(logs, 1 - look.level)
    return math.exp(mean), math.exp(low), math.exp(high)
