"""Drift, controls, sentinels, taint."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import trust
from pipeline.analysis.frame import tidy
from tests.support.planted import planted

PM = frozenset({"pm"})


def test_planted_drift_is_found_in_random_order():
    found = trust.examine(tidy(planted(blocks=5, drift=0.1, noise=0.005)), frozenset())
    assert found.drift.low < np.exp(0.1) < found.drift.high
    assert found.drift.value == pytest.approx(np.exp(0.1), rel=0.02)
    assert len(found.drift_by_block) == 5
    assert any("drifts" in alarm for alarm in found.alarms)


def test_no_drift_raises_no_alarm():
    found = trust.examine(tidy(planted(blocks=5, noise=0.005)), PM)
    assert found.alarms == ()
    assert found.drift.low < 1 < found.drift.high


def test_the_control_spread_is_that_of_a_pair():
    found = trust.examine(tidy(planted(blocks=40, noise=0.02)), PM)
    assert found.control.runs == 160
    assert found.control_spread == pytest.approx(0.02 * np.sqrt(2), rel=0.2)
    assert found.control_low < 1 < found.control_high


def test_a_control_that_differs_raises_an_alarm():
    study = planted(blocks=5, noise=0.003, truth={"pm": np.log(1.05)})
    assert any("A/A" in alarm for alarm in trust.examine(tidy(study), PM).alarms)


def test_sentinels_compare_the_ends_of_a_block():
    study = planted(blocks=4)
    first = study.runs[study.runs["params.techniques"].eq("baseline")].copy()
    first["tags.ablate.kind"], first["metrics.time/train_seconds"] = "sentinel", 100.0
    first["start_time"] -= pd.Timedelta(hours=2)
    last = first.copy()
    last["start_time"] += pd.Timedelta(hours=20)
    last["metrics.time/train_seconds"] = 103.0 + np.arange(4) * 0.1
    runs = pd.concat([study.runs, last, first], ignore_index=True)
    found = trust.examine(tidy(replace(study, runs=runs)), frozenset())
    assert found.sentinel.value == pytest.approx(1.0315, abs=1e-3)
    assert any("Sentinel" in alarm for alarm in found.alarms)


def test_tainted_runs_are_listed_with_their_reason():
    study = planted(blocks=2)
    study.runs.loc[3, "tags.ablate.tainted"] = "GPU shared with pid 7"
    found = trust.examine(tidy(study), frozenset())
    assert found.tainted["reason"].tolist() == ["GPU shared with pid 7"]
    assert any("tainted" in alarm for alarm in found.alarms)
