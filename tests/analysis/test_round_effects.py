"""Effects of cells that take turns: what `estimate` says of complete blocks, and enough rounds in spite of looking."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.round_effects import (
    PRECISE_KINDS,
    UNLOOKED,
    RoundEffect,
    cells_of,
    precision_text,
    round_effects,
    running_widths,
)
from pipeline.analysis.stopping import FURTHER_BLOCKS, precise
from pipeline.analysis.student_t import quantile
from pipeline.tracking.study_data import StudyData

SETTINGS = [(), ("ga",), ("amp",), ("ga", "amp")]


def rates(rounds: int, noise: float, truth: dict[str, float], seed: int = 0) -> list[dict[int, float]]:
    """Images/s of the cells of `SETTINGS`; truth has each technique's effect on the logarithm of the time."""
    random = np.random.default_rng(seed)
    shared = random.normal(0, 0.3, rounds)
    return [
        {
            number + 1: 1000 * float(np.exp(-sum(truth.get(name, 0) for name in on) + shift + random.normal(0, noise)))
            for number, shift in enumerate(shared)
        }
        for on in SETTINGS
    ]


def by_name(effects: list[RoundEffect]) -> dict[tuple[str, str], RoundEffect]:
    return {(effect.kind, effect.term): effect for effect in effects}


def test_they_are_what_estimate_says_of_complete_blocks() -> None:
    measured = rates(9, 0.02, {"ga": -0.1, "amp": 0.05})
    rows = [
        {
            "run_id": f"{index}-{number}",
            "status": "FINISHED",
            "params.model": "m",
            "params.dataset": "d",
            "params.ga": "on" if "ga" in on else "off",
            "params.amp": "on" if "amp" in on else "off",
            "tags.ablate.block": str(number),
            "metrics.time/train_seconds": 1 / rate,
        }
        for index, on in enumerate(SETTINGS)
        for number, rate in measured[index].items()
    ]
    table = estimate(StudyData("s", pd.DataFrame(rows), techniques=("ga", "amp")), confidence=UNLOOKED).table
    found = by_name(round_effects(SETTINGS, ["ga", "amp"], measured, 0.01, 8))
    assert set(found) == {(kind, term) for kind in PRECISE_KINDS for term in ("ga", "amp")}
    for (kind, term), effect in found.items():
        row = table[table["kind"].eq(kind) & table["term"].eq(term) & table["response"].eq("train_seconds")].iloc[0]
        assert (effect.ratio, effect.low, effect.high) == pytest.approx((row["estimate"], row["low"], row["high"]))


def test_only_rounds_that_all_cells_have_count() -> None:
    measured = rates(9, 0.02, {})
    whole = round_effects(SETTINGS, ["ga", "amp"], measured, 0.01, 8)
    more = [{**of_cell, 99: 1.0} if index else of_cell for index, of_cell in enumerate(measured)]
    assert round_effects(SETTINGS, ["ga", "amp"], more, 0.01, 8) == whole
    assert round_effects(SETTINGS, ["ga", "amp"], [{1: 1.0}] * 4, 0.01, 8) == []
    assert round_effects(SETTINGS, ["ga", "amp"], [{1: 1.0}, {2: 1.0}] * 2, 0.01, 8) == []


def test_cells_that_are_not_a_factorial_are_each_beside_the_baseline() -> None:
    settings = [(), ("ga", "amp"), ("ga", "pm")]
    found = round_effects(settings, ["ga", "amp", "pm"], rates(9, 0.01, {})[:3], 0.01, 8)
    assert [(effect.kind, effect.term) for effect in found] == [("cell", "ga+amp"), ("cell", "ga+pm")]


def test_levels() -> None:
    settings = [(), ("ga=2",), ("ga=4",), ("pm",)]
    cells, factors = cells_of(settings, ["ga", "pm", "amp"])
    assert cells == [("off", "off"), ("2", "off"), ("4", "off"), ("off", "on")]
    assert [(factor.name, factor.levels) for factor in factors] == [("ga", ("2", "4")), ("pm", ("on",))]


def test_enough_is_narrow_now_and_five_rounds_ago() -> None:
    for rounds in range(2, 12):
        found = round_effects(SETTINGS, ["ga", "amp"], rates(rounds, 1e-4, {"ga": -0.1}), 0.01, 8)
        assert {effect.precise for effect in found} == {rounds >= 8}
    assert not any(effect.precise for effect in round_effects(SETTINGS, ["ga", "amp"], rates(20, 0.2, {}), 0.01, 8))


def test_the_words_name_the_widest() -> None:
    found = round_effects(SETTINGS, ["ga", "amp"], rates(9, 0.01, {"ga": -0.1}), 0.05, 8)
    widest = max(found, key=lambda effect: effect.half_width)
    widths = f"{widest.term} {1 / widest.ratio:.3f}x as fast ± {widest.half_width:.1%}"
    said = f"4 of 4 effects known to 5 %, widest interval {widths}"
    assert precision_text(found, 0.05) == said
    assert precision_text([], 0.05) == "no interval yet"


@pytest.mark.parametrize("noise", [0.004, 0.01, 0.015, 0.02, 0.03])
def test_two_thousand_studies_that_stop_when_they_are_precise_cover(noise: float) -> None:
    """At least 94 % of the intervals of an effect that is none hold it, up to 80 rounds."""
    values = np.random.default_rng(5).normal(0, noise, (2000, 80))
    stops = precise(running_widths(values), 1.01**2 - 1, first=8 - FURTHER_BLOCKS, further=FURTHER_BLOCKS)
    last = np.where(stops.any(axis=1), stops.argmax(axis=1), 79)
    covered = 0
    for of_study, end in zip(values, last, strict=True):
        seen = of_study[: end + 1]
        half = quantile(0.5 + UNLOOKED / 2, end) * seen.std(ddof=1) / np.sqrt(end + 1)
        covered += abs(seen.mean()) <= half
    assert covered / 2000 >= 0.94
