"""When a cell has paid back what it takes before training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.break_even import BreakEven, break_evens
from pipeline.analysis.effects import estimate
from pipeline.analysis.report.headlines import summary_lines
from pipeline.tracking.study_data import StudyData
from tests.support.planted import planted
from tests.support.reports import pages_of, report_of


def compiled(effect: float = np.log(0.8), noise: float = 1e-6, extra: float = 30.0, blocks: int = 6) -> StudyData:
    """A study of one technique that compiles for 30 s; the baseline's first uses take 2 s, its epochs 1,000 images."""
    study = planted(blocks=blocks, techniques=("compile",), truth={"compile": effect}, noise=noise)
    on = study.runs["params.compile"].eq("on")
    seconds = study.runs["metrics.time/train_seconds"]
    more = {
        "metrics.time/warmup_seconds": np.where(on, 3.0, 2.0),
        "metrics.time/compile_seconds": np.where(on, extra - 1.0, np.nan),
        "metrics.train/epoch_seconds": seconds / 5,
        "metrics.train/images_per_second": 1000 / (seconds / 5),
        "metrics.throughput/images_per_second": 5000 / seconds,
    }
    return replace(study, runs=study.runs.assign(**more))


def test_it_is_what_the_set_up_costs_over_what_an_image_saves() -> None:
    study = compiled()
    (found,) = break_evens(estimate(study))
    runs = estimate(study).timed
    seconds = 1 / np.exp(np.log(runs.loc[runs["cell"].eq("baseline"), "images_per_second"]).mean())
    assert found.cell == "compile" and (found.extra_seconds, found.images) == pytest.approx((30.0, 1000.0))
    assert found.epochs == pytest.approx(30 / (seconds * 0.2) / 1000, rel=1e-3)
    assert found.low <= found.epochs <= found.high < found.epochs * 1.01


def test_the_interval_is_that_of_the_ratio() -> None:
    effects = estimate(compiled(noise=0.03))
    (found,) = break_evens(effects)
    row = effects.cells[effects.cells["response"].eq("train_seconds") & effects.cells["cell"].eq("compile")].iloc[0]
    saved = [(1 - row[name]) for name in ("low", "estimate", "high")]
    assert [found.low * saved[0], found.epochs * saved[1]] == pytest.approx([found.high * saved[2]] * 2)
    low, middle, high = (f"{count:.2g}" for count in (found.low, found.epochs, found.high))
    assert f"pays from {middle} epochs on [{low}, {high}], of 1,000 images each" in str(found)


def test_what_is_slower_does_not_pay_back() -> None:
    (found,) = break_evens(estimate(compiled(effect=np.log(1.2))))
    assert math.isinf(found.epochs) and "which it does not pay back" in str(found)
    unsure = BreakEven("m", "d", "compile", "", 30.0, 4.0, 2.0, math.inf, 10.0)
    assert "pays from 4 epochs on [2, never]" in str(unsure)
    assert "not shown to pay back" in str(replace(unsure, epochs=math.inf))
    many = replace(unsure, epochs=1234.0, low=15.4, high=5678.0)
    assert "pays from 1,234 epochs on [15, 5,678]" in str(many)
    assert "pays from 1 epoch on, of 10" in str(replace(unsure, epochs=1.0, low=math.nan, high=math.nan))


def test_there_is_none_without_a_compiler_or_for_a_moment() -> None:
    assert break_evens(estimate(planted())) == []
    assert break_evens(estimate(compiled(extra=0.5))) == []


def cached(study: StudyData, on: bool, cold_blocks: int, extra: float) -> StudyData:
    """The same, in whose first blocks the compiler's cache was cold, and in the others warm with less to wait for."""
    runs = study.runs.copy()
    at = runs["params.compile"].eq("on" if on else "off")
    cold = runs["tags.ablate.block"].astype(int) < cold_blocks
    runs.loc[at, "tags.ablate.engagement"] = [
        f'{{"compiler_cache": "{"cold" if is_cold else "warm"}"}}' for is_cold in cold[at]
    ]
    runs.loc[at & ~cold, "metrics.time/compile_seconds"] = extra - 1.0
    return replace(study, runs=runs)


def test_a_cold_cache_and_a_warm_one_are_told_apart() -> None:
    cold, warm = break_evens(estimate(cached(compiled(), True, cold_blocks=2, extra=6.0)))
    assert (cold.cache, warm.cache) == ("cold", "warm")
    assert (cold.extra_seconds, warm.extra_seconds) == pytest.approx((30.0, 6.0))
    assert cold.epochs / warm.epochs == pytest.approx(5.0)
    assert "30.0 s of compilation and first uses with a cold compiler cache before training" in str(cold)
    (only,) = break_evens(estimate(cached(compiled(), True, cold_blocks=0, extra=30.0)))
    assert only.cache == "warm", "of what was not seen nothing is said"


def test_a_baseline_that_compiles_too_is_compared_with_what_found_the_cache_as_it_did() -> None:
    study = cached(cached(compiled(), True, cold_blocks=2, extra=6.0), False, cold_blocks=2, extra=2.0)
    runs = study.runs
    cold_base = runs["params.compile"].eq("off") & (runs["tags.ablate.block"].astype(int) < 2)
    runs.loc[cold_base, "metrics.time/compile_seconds"] = 19.0
    found = {each.cache: each.extra_seconds for each in break_evens(estimate(study))}
    assert found == pytest.approx({"cold": 32.0 - 21.0, "warm": 8.0 - 3.0})


def test_rounds_have_it_too() -> None:
    study = compiled()
    rounds = study.runs.drop(columns=[c for c in study.runs if str(c).startswith("metrics.train/")])
    rounds = rounds.assign(**{"metrics.turns/recipe_images": 5000.0, "params.recipe.epochs": "5"})
    alone = estimate(replace(study, runs=rounds, rounds=rounds))
    (found,) = break_evens(alone)
    (grid,) = break_evens(estimate(study))
    assert (found.epochs, found.images) == pytest.approx((grid.epochs, grid.images), rel=1e-6)
    grids = study.runs.assign(**{"params.recipe.epochs": "5"})
    both = break_evens(estimate(replace(study, runs=grids, rounds=rounds)))
    assert [each.epochs for each in both] == pytest.approx([grid.epochs], rel=1e-6)


def test_report_and_summary_say_it() -> None:
    report = report_of(compiled())
    said = str(report.break_evens[0])
    assert any(said in line for line in summary_lines(report))
    html, markdown = pages_of(report)
    assert "Before training" in html and "Before training" in markdown and "of compilation and first uses" in markdown
    assert "Before training" not in pages_of(report_of(planted()))[0]
    assert isinstance(report.effects.timed, pd.DataFrame)
