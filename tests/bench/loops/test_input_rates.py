"""The input pipelines beside each other."""

from __future__ import annotations

import pytest

from pipeline.bench.loops import input_rates


@pytest.mark.slow
def test_gather_is_at_least_three_times_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_rates, "IMAGES", 5_000)
    rates = input_rates.rates("cpu", 3, "none")
    assert min(rates["gather"]) > 3 * max(rates["loader"])
