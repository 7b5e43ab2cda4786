"""Intervals that hold at every look together, and what they find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.analysis.looks import MISSES, plan_looks, ratio_at
from pipeline.analysis.student_t import mean_interval


def test_the_levels_of_the_looks_sum_to_the_chance_of_a_miss() -> None:
    for first, last in ((2, 2), (2, 3), (8, 8), (8, 40), (8, 41), (5, 10_000)):
        looks = plan_looks(first, last)
        pairs = [look.pairs for look in looks]
        assert pairs[0] == first and pairs[-1] == last and pairs == sorted(set(pairs))
        assert math.isclose(sum(look.level for look in looks), MISSES)
    assert [look.pairs for look in plan_looks(8, 40)] == [8, 12, 18, 27, 40]


@pytest.mark.parametrize(("first", "last"), [(1, 5), (6, 5), (0, 0)])
def test_a_plan_that_is_none_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="pairs"):
        plan_looks(first, last)


def test_a_single_look_is_a_plain_interval() -> None:
    logs = [0.01, -0.02, 0.03]
    (look,) = plan_looks(3, 3)
    assert ratio_at(look, logs) == pytest.approx([math.exp(value) for value in mean_interval(logs, 0.95)])


@pytest.mark.parametrize("truth", [0.0, 0.005])
def test_of_2000_studies_that_stop_at_the_first_look_that_shows_anything_94_percent_cover(truth: float) -> None:
    """Stopping at what one hopes to see is the worst that can be done to an interval."""
    random = np.random.default_rng(1)
    looks = plan_looks(8, 40)
    covered = 0
    for values in random.normal(truth, 0.01, (2000, 40)):
        for look in looks:
            _, low, high = ratio_at(look, values[: look.pairs])
            if not low < 1 < high:
                break
        covered += low < math.exp(truth) < high
    assert covered >= 0.94 * 2000
