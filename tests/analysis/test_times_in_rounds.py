"""A grid's study whose times come from rounds: those and nothing else, of the same cells on the same machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.effects import Effects, estimate
from pipeline.analysis.recommendation import recommend
from pipeline.analysis.trust import examine
from pipeline.tracking.study_data import StudyData
from tests.support.planted import TRUTH, one, planted


def rounds_of(grid: StudyData, rounds: int = 12, noise: float = 0.004, **changed: str) -> pd.DataFrame:
    """Rounds of the grid's cells, as `tracking.round_data` gives them."""
    names = set(grid.runs["params.model"])
    made = planted(models=tuple(sorted(names)), blocks=rounds, noise=noise, seed=9).runs
    kept = [c for c in made.columns if not c.startswith("metrics.") or c.startswith("metrics.t")]
    made = made[[c for c in kept if c not in ("metrics.test/accuracy", "metrics.test/f1_macro")]]
    return made.assign(**{"run_id": made["run_id"] + "-turns", **changed})


def with_rounds(models: tuple[str, ...] = ("resnet", "vit"), noise: float = 0.1, **changed: str) -> StudyData:
    grid = planted(models=models, blocks=4, noise=noise)
    return replace(grid, rounds=rounds_of(grid, **changed))


def width(effects: Effects, **where: str) -> float:
    row = one(effects, **where)
    return float(np.log(row["high"] / row["low"]))


def test_times_are_the_rounds_and_all_else_is_the_grid_s() -> None:
    study = with_rounds()
    alone, both = estimate(replace(study, rounds=pd.DataFrame())), estimate(study)
    assert list(alone.table[["model", "dataset", "response", "kind", "term"]].itertuples(index=False)) == list(
        both.table[["model", "dataset", "response", "kind", "term"]].itertuples(index=False)
    )
    for model in ("resnet", "vit", "all"):
        where = {"model": model, "term": "ga", "kind": "main"}
        assert width(both, **where) < 0.2 * width(alone, **where)
        row = one(both, **where)
        assert row["low"] < np.exp(TRUTH["ga"]) < row["high"]
        for response in ("accuracy", "gpu_peak_allocated_mib"):
            first, second = (one(e, response=response, **where) for e in (alone, both))
            assert first["estimate"] == second["estimate"] and first["p_adjusted"] == second["p_adjusted"]
    assert one(both, model="resnet", term="ga", kind="main")["blocks"] == 12
    assert both.notes[0] == "Times of all 2 models and data sets are from 12 rounds of `ablate speed` each."
    cells = both.cells[both.cells["response"].eq("train_seconds") & both.cells["cell"].eq("amp")]
    assert cells["blocks"].eq(12).all() and cells["cell_runs"].eq(12).all()


def test_the_recommendation_follows_them() -> None:
    study = with_rounds(("resnet",), noise=0.5)
    assert recommend(estimate(replace(study, rounds=pd.DataFrame())), study)[0].cell == "baseline"
    (advice,) = recommend(estimate(study), study)
    assert "amp" in advice.cell and advice.high < 0.8


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tags.env.hostname": "elsewhere", "tags.env.gpu_uuid": "GPU-other"}, "they ran on another machine"),
        ({"params.recipe.batch_size": "7"}, "batch_size had other values"),
    ],
)
def test_rounds_of_something_else_are_left_out_and_it_is_said(changed: dict[str, str], why: str) -> None:
    study = with_rounds(("resnet",))
    if "params.recipe.batch_size" in changed:
        study = replace(study, runs=study.runs.assign(**{"params.recipe.batch_size": "8"}))
    study = replace(study, rounds=study.rounds.assign(**changed))
    found = estimate(study)
    plain = estimate(replace(study, rounds=pd.DataFrame()))
    pd.testing.assert_frame_equal(found.table, plain.table)
    assert f"resnet / digits: times are the grid's, since {why} when its cells took turns." in found.notes


def test_models_that_took_no_turns_keep_the_grid_s() -> None:
    study = with_rounds()
    study = replace(study, rounds=study.rounds[study.rounds["params.model"].eq("vit")])
    found, plain = estimate(study), estimate(replace(study, rounds=pd.DataFrame()))
    where = {"term": "ga", "kind": "main"}
    assert one(found, model="resnet", **where)["estimate"] == one(plain, model="resnet", **where)["estimate"]
    assert one(found, model="vit", **where)["estimate"] != one(plain, model="vit", **where)["estimate"]
    assert found.notes[0] == "Times of 1 of 2 models and data sets are from 12 rounds of `ablate speed` each."


def test_rounds_alone_are_a_study() -> None:
    frame = with_rounds(("resnet",)).rounds
    found = estimate(StudyData("s", frame, techniques=("ga", "amp", "pm"), rounds=frame))
    assert set(found.table["response"]) == {"train_seconds", "images_per_second"}
    looked, unlooked = found, estimate(StudyData("s", frame, techniques=("ga", "amp", "pm")))
    ratio = width(looked, term="ga", kind="main") / width(unlooked, term="ga", kind="main")
    assert 1.03 < ratio < 1.1, "wider for the looks"
    assert found.notes[0] == "Times of resnet / digits are from 12 rounds of `ablate speed`."


def test_groups_may_have_different_numbers_of_rounds() -> None:
    study = with_rounds()
    fewer = study.rounds["params.model"].eq("vit") & study.rounds["tags.ablate.block"].astype(int).lt(3)
    found = estimate(replace(study, rounds=study.rounds[~fewer]))
    assert found.notes[0] == "Times of all 2 models and data sets are from 9 to 12 rounds of `ablate speed` each."


def test_the_a_a_controls_are_those_of_the_times_that_are_used() -> None:
    """A grid whose control is off by a third is no reason to doubt times that are not the grid's."""
    study = with_rounds(("resnet",), noise=0.004)
    on = study.runs["params.pm"].eq("on")
    seconds = study.runs["metrics.time/train_seconds"]
    study = replace(study, runs=study.runs.assign(**{"metrics.time/train_seconds": seconds.where(~on, seconds * 1.3)}))
    off = examine(estimate(replace(study, rounds=pd.DataFrame())).study, frozenset({"pm"}))
    assert any("A/A controls differ" in alarm for alarm in off.alarms)
    effects = estimate(study)
    found = examine(effects.study, frozenset({"pm"}), effects.timed)
    assert not any("A/A controls" in alarm for alarm in found.alarms)
    assert found.control is not None and found.control.low < 1 < found.control.high


def test_two_turns_that_differ_are_no_disturbed_runs() -> None:
    """A round is seconds long and one of many; of the grid's runs a pair stands alone."""
    study = with_rounds(("resnet",), noise=0.004)
    alone = study.rounds["params.techniques"].eq("pm") & study.rounds["tags.ablate.block"].astype(str).eq("3")
    assert alone.sum() == 1
    seconds = study.rounds["metrics.time/train_seconds"]
    rounds = study.rounds.assign(**{"metrics.time/train_seconds": seconds.where(~alone, seconds * 3)})
    effects = estimate(replace(study, rounds=rounds))
    alarms = examine(effects.study, frozenset({"pm"}), effects.timed).alarms
    assert not any("same computation" in alarm for alarm in alarms)
