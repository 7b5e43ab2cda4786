"""Ratios and their intervals, and the command's small pure parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bench.intervals import RatioRow, block_log, ratio_interval


def test_the_interval_of_a_worked_example() -> None:
    # mean 0.1, standard deviation 0.1, n = 3: half-width 4.302653 * 0.1 / sqrt(3) = 0.248414
    ratio, low, high = ratio_interval([0.0, 0.1, 0.2])
    assert ratio == pytest.approx(math.exp(0.1))
    assert low is not None and math.log(low) == pytest.approx(0.1 - 0.248414, abs=1e-6)
    assert high is not None and math.log(high) == pytest.approx(0.1 + 0.248414, abs=1e-6)


def test_one_block_has_no_interval() -> None:
    assert ratio_interval([0.5]) == (math.exp(0.5), None, None)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        _, low, high = ratio_interval(list(random.normal(0.02, 0.01, 5)))
        assert low is not None and high is not None
        covered += low <= math.exp(0.02) <= high
    assert 930 <= covered <= 968  # 950 expected, standard error 7


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.floats(0.1, 10))
def test_a_block_ratio_is_paired_and_antisymmetric(times: list[float], factor: float) -> None:
    slower = [time * factor for time in times]
    assert block_log(slower, times) == pytest.approx(math.log(factor), abs=1e-9)
    assert block_log(times, slower) == pytest.approx(-math.log(factor), abs=1e-9)


def test_rounds_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError):
        block_log([1.0, 2.0], [1.0])


def test_a_disturbed_round_does_not_move_a_block() -> None:
    assert block_log([2.0, 2.0, 90.0], [1.0, 1.0, 1.0]) == pytest.approx(math.log(2))


def test_a_row_has_the_fields_of_the_contract() -> None:
    document = RatioRow("over_bare", 1.01, 0.99, 1.03, detail={"model": "test_resnet"}).document()
    assert document == {
        "model": "test_resnet",
        "name": "over_bare",
        "ratio": 1.01,
        "low": 0.99,
        "high": 1.03,
        "unit": "ratio",
    }
