"""Ratios of paired times with an interval. Pure; SciPy is imported where it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, stdev
from typing import Any


@dataclass(frozen=True)
class RatioRow:
    """One result. `low` and `high` bound the 95 % interval; None where one measurement gives none.

    `detail` has what identifies the row beside its name (model, batch), and the figures that it was made from.
    """

    name: str
    ratio: float
    low: float | None
    high: float | None
    unit: str = "ratio"
    detail: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As the contract's JSON."""
        values = asdict(self)
        return {**values.pop("detail"), **values}


def ratio_interval(logs: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None, float | None]:
    """Geometric mean and Student's t interval of ratios given as logarithms, one per block.

    The blocks are the independent units; what varies inside one has been summed up before. With a single block
    there is no interval.

    Returns:
        (ratio, low, high).
    """
    mean = fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), None, None
    from scipy import stats

    half = float(stats.t.ppf(0.5 + confidence / 2, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def block_log(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """One block's log ratio: the median over its rounds, in which both were timed one shortly after the other.

    The median, since on a shared machine some rounds are hit by other processes.

    Raises:
        ValueError: the two are not paired.
    """
    return median(math.log(a / b) for a, b in zip(numerator, denominator, strict=True))
