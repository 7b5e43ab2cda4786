"""Confirmation: the best configurations of a search and the baseline once more, in fresh, shuffled blocks.

The best of many noisy measurements looks better than it is (the winner's curse), so nothing measured in the search
enters these estimates. Within a block all configurations share a seed, so they are compared in pairs: the mean of the
logarithms of the ratios over blocks, with Student's t interval. The winner is picked after the fact, so the intervals
against the baseline hold for all candidates together, and those of one candidate against another for all pairs of
candidates (Bonferroni).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.tuning.objective import VALIDATION_ACCURACY, Objective, Quantity
from pipeline.tuning.space import Config, Space

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measurement:
    """One configuration as the search saw it: its trial and the values of the objectives (None: not measured)."""

    config: Config
    number: int | None = None
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class PairedRatio:
    """A ratio of two configurations, with its interval.

    `low` and `high` are None below two blocks, and where the blocks agree to the last digit though they are few counts.
    """

    ratio: float
    low: float | None
    high: float | None
    blocks: int

    @property
    def known(self) -> bool:
        """Whether the interval leaves 1 out."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high

    def better(self, response: Quantity) -> bool:
        """Whether the interval shows an improvement."""
        return self.known and (self.ratio > 1.0) == response.higher_is_better

    @property
    def without(self) -> str:
        """Why there is no interval."""
        return "one block, no interval" if self.blocks < 2 else "the blocks agree to the last digit, no interval"

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"x{self.ratio:.3f} ({self.without})"
        return f"x{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ranked(objective: Objective, found: Iterable[Measurement]) -> list[Measurement]:
    """Measured configurations, best first; for several objectives the Pareto front, by its first objective."""
    known = [measured for measured in found if measured.values is not None]
    if len(objective.responses) > 1:
        known = [one for one in known if not any(_dominates(objective, other, one) for other in known)]
    first = objective.responses[0]
    return sorted(known, key=lambda m: m.values[0] if m.values else 0.0, reverse=first.higher_is_better)


def _dominates(objective: Objective, one: Measurement, other: Measurement) -> bool:
    assert one.values is not None and other.values is not None
    signs = [1 if response.higher_is_better else -1 for response in objective.responses]
    gains = [sign * (a - b) for sign, a, b in zip(signs, one.values, other.values, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


def candidates(objective: Objective, space: Space, found: Sequence[Measurement], top: int) -> list[Measurement]:
    """What is confirmed besides the baseline: the best `top`, and the counterpart of the first in accumulation.

    Of a Pareto front with more than `top` members, members evenly spread along it.
    """
    order = [measured for measured in ranked(objective, found) if measured.config != space.baseline]
    if len(objective.responses) > 1 and len(order) > top > 1:
        order = [order[round(i * (len(order) - 1) / (top - 1))] for i in range(top)]
    chosen = order[:top]
    if chosen and objective.name == "throughput":
        pair = counterpart(objective, space, chosen[0].config, found)
        if pair is not None and pair.config not in {m.config for m in chosen} | {space.baseline}:
            chosen.append(pair)
    return chosen


def counterpart(objective: Objective, space: Space, config: Config, found: Sequence[Measurement]) -> Measurement | None:
    """The same micro-batch and techniques without accumulation; for one without, the best with accumulation."""
    same = [
        measured
        for measured in found
        if (measured.config.batch_size, measured.config.levels) == (config.batch_size, config.levels)
        and (measured.config.accumulation_steps == 1) == (config.accumulation_steps > 1)
    ]
    order = ranked(objective, same)
    if order:
        return order[0]
    steps = [
        other
        for other in space.configs
        if (other.batch_size, other.levels) == (config.batch_size, config.levels)
        and (other.accumulation_steps == 1) == (config.accumulation_steps > 1)
        and other not in {m.config for m in found}
    ]
    return Measurement(min(steps)) if steps else None


def blocks_of(configs: Sequence[Config], blocks: int, seed: int) -> list[list[Config]]:
    """The order of the configurations in each block."""
    found = []
    for block in range(blocks):
        order = sorted(configs)
        random.Random(f"confirm/{seed}/{block}").shuffle(order)
        found.append(order)
    return found


Values = Mapping[Config, Mapping[int, Mapping[str, float]]]


def contrast(values: Values, one: Config, other: Config, response: Quantity, family: int) -> PairedRatio | None:
    """The ratio of two configurations, over the blocks in which both have a value.

    Args:
        values: configuration -> block -> metrics.
        one: numerator.
        other: denominator.
        response: of the ratio.
        family: intervals that shall hold together.

    Returns:
        The contrast; None without a common block. Accuracies are counts of images: two configurations that differ by
        as many images in every block have done so by chance, not without error, and the contrast has no interval.
    """
    logs, differences = [], []
    for block, metrics in values.get(one, {}).items():
        a, b = response.value(metrics), response.value(values.get(other, {}).get(block, {}))
        if a and b and a > 0 and b > 0:
            logs.append(math.log(a / b))
            differences.append(a - b)
    if not logs:
        return None
    # NumPy and SciPy: not before there is something to compare
    from pipeline.analysis.student_t import mean_interval
    from pipeline.analysis.verdicts import ROUNDING

    mean, low, high = mean_interval(logs, 1 - (1 - CONFIDENCE) / max(family, 1))
    agree = min(max(found) - min(found) for found in (logs, differences)) <= ROUNDING < abs(mean)
    if len(logs) == 1 or (agree and response is VALIDATION_ACCURACY):
        return PairedRatio(math.exp(mean), None, None, len(logs))
    return PairedRatio(math.exp(mean), math.exp(low), math.exp(high), len(logs))
