"""The confirmation: intervals that hold though the winner is picked afterwards, and plain words for what they say."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.design.names import GPU_PEAK_ALLOCATED, VAL_ACCURACY
from pipeline.tuning import confirmation
from pipeline.tuning.confirmation import Measurement, PairedRatio
from pipeline.tuning.objective import MEMORY, OBJECTIVES, THROUGHPUT, TIME_TO_TARGET, VALIDATION_ACCURACY
from pipeline.tuning.space import Config
from tests.support.confirmed import RATE, A, B, C, D, values
from tests.support.tuning import make_space


def test_the_ratio_is_the_mean_of_paired_logarithms_with_students_t() -> None:
    found = confirmation.contrast(values(A=[100, 110, 120], B=[200, 231, 240]), B, A, THROUGHPUT, 1)
    logs = [math.log(2.0), math.log(2.1), math.log(2.0)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2 / 3)
    assert found is not None and found.blocks == 3
    assert found.ratio == pytest.approx(math.exp(mean))
    assert found.low == pytest.approx(math.exp(mean - 4.302653 * error))  # t, 97.5 %, 2 degrees of freedom
    assert found.high == pytest.approx(math.exp(mean + 4.302653 * error))
    corrected = confirmation.contrast(values(A=[100, 110, 120], B=[200, 231, 240]), B, A, THROUGHPUT, 5)
    assert corrected is not None and corrected.low == pytest.approx(math.exp(mean - 9.924843 * error))  # 99.5 %


def test_only_common_blocks_are_compared_and_one_has_no_interval() -> None:
    found = confirmation.contrast(values(A=[100, None, 120], B=[200, 500, None]), B, A, THROUGHPUT, 1)
    assert found == PairedRatio(2.0, None, None, 1) and not found.known
    assert confirmation.contrast(values(A=[None, 1.0], B=[1.0, None]), B, A, THROUGHPUT, 1) is None


@pytest.mark.parametrize("baseline", [[30 / 45, 33 / 45], [0.5, 0.5]], ids=["counts differ alike", "ratios are alike"])
def test_accuracies_that_agree_to_the_last_digit_are_no_certainty(baseline: list[float]) -> None:
    """Two small test sets in which one configuration happens to have the same number of images more right."""
    made = {
        config: {block: {VAL_ACCURACY: accuracy + more} for block, accuracy in enumerate(baseline)}
        for config, more in ((A, 0.0), (B, 4 / 45))
    }
    found = confirmation.contrast(made, B, A, VALIDATION_ACCURACY, 1)
    assert found is not None and (found.low, found.high, found.blocks) == (None, None, 2)
    assert not found.known and not found.better(VALIDATION_ACCURACY)
    assert str(found).endswith("(the blocks agree to the last digit, no interval)")
    same = confirmation.contrast(made, A, A, VALIDATION_ACCURACY, 1)
    assert same == PairedRatio(1.0, 1.0, 1.0, 2), "no difference at all is what a technique that changes no bit makes"


def test_a_memory_that_repeats_exactly_is_known() -> None:
    made = {c: {b: {GPU_PEAK_ALLOCATED: mib} for b in range(2)} for c, mib in ((A, 400.0), (B, 200.0))}
    found = confirmation.contrast(made, B, A, MEMORY, 3)
    assert found is not None and found.better(MEMORY)


@pytest.mark.parametrize("family", [1, 4])
def test_the_winner_of_equals_is_rarely_called_better(family: int) -> None:
    """Four copies of the baseline: the best of them is picked, and must not be sold as an improvement."""
    source, wrong = random.Random(5), 0
    copies = [Config(128, s) for s in (1, 2)] + [Config(256, s) for s in (1, 2)]
    for _ in range(600):
        made = {c: {b: {RATE: math.exp(source.gauss(7, 0.02))} for b in range(6)} for c in [A, *copies]}
        found = [confirmation.contrast(made, c, A, THROUGHPUT, family) for c in copies]
        best = max((f for f in found if f is not None), key=lambda f: f.ratio)
        wrong += best.better(THROUGHPUT)
    assert (wrong / 600 < 0.05) == (family == 4), "uncorrected intervals are too narrow for a picked winner"


def test_accumulation_gets_its_counterpart_in_the_confirmation() -> None:
    space = make_space(batches=[64, 128, 256], accumulations=[1, 2])
    searched = [
        Measurement(D, 0, (9.0,)),
        Measurement(B, 1, (8.0,)),
        Measurement(Config(256, 2), 2, (1.0,)),
        Measurement(A, 3, (2.0,)),
    ]
    chosen = confirmation.candidates(OBJECTIVES["throughput"], space, searched, 2)
    assert [one.config for one in chosen] == [D, B, Config(256, 2)]
    unseen = confirmation.candidates(OBJECTIVES["throughput"], space, searched[:2], 1)
    assert [(one.config, one.number) for one in unseen] == [(D, 0), (Config(256, 2), None)]
    assert [one.config for one in confirmation.candidates(OBJECTIVES["memory"], space, searched[:1], 1)] == [D]


@given(st.integers(0, 1000), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_blocks_are_shuffled_and_whole(seed: int, blocks: int) -> None:
    orders = confirmation.blocks_of([D, A, C, B], blocks, seed)
    assert len(orders) == blocks and all(sorted(order) == sorted([A, B, C, D]) for order in orders)
    assert orders == confirmation.blocks_of([A, B, C, D], blocks, seed)


def test_directions_are_those_of_the_objective() -> None:
    assert PairedRatio(0.5, 0.4, 0.6, 4).better(TIME_TO_TARGET) and not PairedRatio(0.5, 0.4, 0.6, 4).better(THROUGHPUT)
    assert PairedRatio(1.5, 1.2, 1.6, 4).better(VALIDATION_ACCURACY) and not PairedRatio(1.5, 0.9, 1.6, 4).better(
        VALIDATION_ACCURACY
    )
