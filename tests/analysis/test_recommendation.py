"""Which cell is recommended."""

from dataclasses import replace

import numpy as np

from pipeline.analysis import recommendation
from pipeline.analysis.effects import estimate
from tests.support.planted import planted


def advice(study, **kwargs):
    options = {"accuracy_margin_points": kwargs.pop("points", 1.0)}
    return recommendation.recommend(estimate(study, **options), study, **kwargs)[0]


def test_the_recommendation_is_the_fastest_cell_that_may_be_used():
    study = planted(blocks=5, noise=0.003, truth={"ga": np.log(0.9), "amp": np.log(0.7)})
    best = advice(study)
    assert best.cell.startswith("ga+amp")
    assert best.set_line.startswith("--set accumulation_steps=2 ")
    assert "--set precision=fp16" in best.set_line
    assert best.high < 1
    assert advice(study, points=0.1).cell in ("ga", "ga+pm", "baseline")  # amp costs 0.4 points
    assert "amp" in advice(study, memory_limit_mib=3000).cell
    none = advice(study, memory_limit_mib=100)
    assert (none.cell, none.set_line) == ("baseline", "")
    assert "memory limit" in none.reason


def test_a_cell_that_is_not_shown_faster_is_not_recommended():
    found = advice(planted(blocks=3, noise=0.01, truth={}))
    assert (found.cell, found.set_line) == ("baseline", "")
    assert "No cell is shown to be faster" in found.reason


def test_a_control_is_never_recommended():
    study = planted(blocks=5, noise=0.003, device="cpu", gpu=False, truth={"pm": np.log(0.9), "amp": np.log(0.8)})
    assert "amp" in advice(study).cell
    assert "pm" not in advice(study).cell


def test_without_recipe_fields_the_recommendation_names_techniques():
    study = planted(blocks=5, noise=0.003)
    bare = study.runs.drop(columns=[c for c in study.runs if c.startswith("params.recipe.")])
    assert advice(replace(study, runs=bare)).set_line.startswith("--techniques ga,amp")
