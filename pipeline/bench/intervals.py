"""Ratios of paired times with an interval. Pure; the statistics are imported where they are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
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
    from pipeline.analysis.student_t import mean_interval

    mean, low, high = mean_interval(logs, confidence)
    return math.exp(mean), *((None, None) if math.isnan(low) else (math.exp(low), math.exp(high)))


def block_log(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """One block's log ratio: the median over its rounds, in which both were timed one shortly after the other.

    The median, since on a shared machine some rounds are hit by other processes.

    Raises:
        ValueError: the two are not paired.
    """
    return median(math.log(a / b) for a, b in zip(numerator, denominator, strict=True))
