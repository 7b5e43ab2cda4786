"""A study as a tidy frame: foreign stores, repeats, settings, controls."""

from dataclasses import replace

import pandas as pd
import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.frame import tidy
from pipeline.tracking.study_data import StudyData
from tests.support.planted import one, planted


def test_on_a_cpu_the_table_of_techniques_says_what_is_a_control():
    techniques = ("tf32", "non_blocking_only", "ga", "unheard_of")
    assert estimate(planted(device="cpu", gpu=False, techniques=techniques)).inert == {"tf32", "non_blocking_only"}
    assert estimate(planted(techniques=techniques)).inert == frozenset()


def test_a_store_with_only_the_names_of_the_contract_is_enough():
    full = planted(blocks=2)
    keep = ["run_id", "status", "params.model", "params.dataset", "params.seed", "params.techniques"]
    runs = full.runs[[*keep, "metrics.time/train_seconds"]]
    study = StudyData("foreign", runs, pd.DataFrame(), ())
    assert [f.name for f in tidy(study).factors] == ["amp", "ga", "pm"]
    effects = estimate(study)
    assert set(effects.table["response"]) == {"train_seconds"}
    expected = one(estimate(full), term="amp", kind="main")
    found = one(effects, term="amp", kind="main")
    assert found["estimate"] == pytest.approx(expected["estimate"], rel=1e-12)
    assert found["blocks"] == 2


def test_later_repeats_replace_and_tainted_runs_yield():
    study = planted(blocks=2, noise=0.0)
    again = study.runs.iloc[[0]].copy()
    again["run_id"], again["metrics.time/train_seconds"] = "again", 12345.0
    again["start_time"] += pd.Timedelta(days=9)
    runs = pd.concat([study.runs, again], ignore_index=True)
    assert "again" in set(tidy(replace(study, runs=runs)).runs["run_id"])
    runs.loc[len(runs) - 1, "tags.ablate.tainted"] = "neighbour"
    clean = tidy(replace(study, runs=runs))
    assert "again" not in set(clean.runs["run_id"])
    assert clean.superseded == 1


def test_settings_that_differ_within_a_cell_are_never_mixed():
    a, b = planted(blocks=2), planted(blocks=2, seed=5)
    b.runs["params.recipe.batch_size"] = "256"
    b.runs["run_id"] += "b"
    effects = estimate(replace(a, runs=pd.concat([a.runs, b.runs], ignore_index=True)))
    groups = set(effects.study.runs["model"])
    assert groups == {"resnet [batch_size=128]", "resnet [batch_size=256]"}
    assert len(effects.study.runs) == 32
    assert any("batch_size" in note for note in effects.notes)
