"""The interval of a rate: its coverage where windows are correlated, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training import throughput


def _windows(generator: np.random.Generator, count: int, correlation: float) -> np.ndarray:
    noise = np.empty(count)
    noise[0] = generator.normal()
    for index in range(1, count):
        noise[index] = correlation * noise[index - 1] + np.sqrt(1 - correlation**2) * generator.normal()
    return 0.05 * (1 + 0.1 * noise)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_the_interval_covers_the_true_rate_though_windows_are_correlated(correlation: float) -> None:
    generator, covered, naive = np.random.default_rng(7), 0, 0
    for _ in range(400):
        seconds = _windows(generator, 400, correlation)
        images = np.full(400, 32.0)
        found = throughput.rate(seconds, images)
        assert found.half_width is not None
        covered += abs(found.images_per_second / (32 / 0.05) - 1) < found.half_width
        naive += abs(found.images_per_second / (32 / 0.05) - 1) < 1.96 * seconds.std() / seconds.mean() / 20
    assert covered / 400 > 0.91
    if correlation:
        assert naive / 400 < 0.75, "an interval that takes windows for independent is too narrow here"


def test_too_few_windows_have_a_rate_and_no_interval() -> None:
    found = throughput.rate(np.full(5, 0.5), np.full(5, 64.0))
    assert found.images_per_second == 128 and found.half_width is None
    with pytest.raises(ValueError):
        throughput.rate(np.empty(0), np.empty(0))
