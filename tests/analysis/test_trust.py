"""Drift, controls, sentinels, taint."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import student_t, trust
from pipeline.analysis.effects import estimate
from pipeline.analysis.frame import tidy
from tests.support.planted import planted
from tests.support.reports import written_report

PM = frozenset({"pm"})
TIME = "metrics.time/train_seconds"


def test_planted_drift_is_found_in_random_order():
    found = trust.examine(tidy(planted(blocks=5, drift=0.1, noise=0.005)), frozenset())
    assert found.drift.low < np.exp(0.1) < found.drift.high
    assert found.drift.value == pytest.approx(np.exp(0.1), rel=0.02)
    assert len(found.drift_by_block) == 5
    (alarm,) = found.alarms
    assert "drifts by +" in alarm and "on average over orders, not in this one order" in alarm


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


def test_a_control_whose_told_effect_is_shown_raises_an_alarm():
    """Alone it is one cell against the baseline; the pairs of all settings may hide it."""
    study = planted(blocks=5, noise=0.003, device="cpu", gpu=False)
    alone = study.runs["params.techniques"].eq("pm")
    seconds = study.runs[TIME]
    effects = estimate(replace(study, runs=study.runs.assign(**{TIME: seconds.where(~alone, seconds * 1.04)})))
    (alarm,) = trust.examine(effects.study, frozenset(), None, effects.detailed).alarms
    assert alarm.startswith("pm can do nothing here, and yet came out at 0.96")
    quiet = estimate(planted(blocks=5, noise=0.003, device="cpu", gpu=False))
    assert not trust.examine(quiet.study, frozenset(), None, quiet.detailed).alarms


def paired(logs):
    """A study of one A/A control: (models, blocks) log ratios on / off."""
    study = planted(models=tuple(f"m{i}" for i in range(len(logs))), blocks=len(logs[0]), techniques=("pm",))
    runs = study.runs
    log = [logs[int(m[1:])][int(b)] for m, b in zip(runs["params.model"], runs["tags.ablate.block"], strict=True)]
    runs["metrics.time/train_seconds"] = np.where(runs["params.pm"].eq("on"), np.exp(log), 1.0) * (
        100 + runs["params.seed"].astype(float)
    )
    return tidy(study)


def test_models_that_differ_in_opposite_directions_raise_an_alarm():
    spread = 0.02 * np.array([-2, -1, 0, 1, 2, 0])
    found = trust.examine(paired([np.log(0.87) + spread, np.log(1.19) + spread]), PM)
    assert found.control.low < 1 < found.control.high
    assert {name: round(e.value, 2) for name, e in found.control_by_group.items()} == {
        "m0 / digits": 0.87,
        "m1 / digits": 1.19,
    }
    (alarm,) = [a for a in found.alarms if "A/A" in a]
    assert "-13.0 % (m0 / digits), +19.0 % (m1 / digits) although" in alarm


def test_the_alarm_of_the_controls_is_corrected_for_the_number_of_groups():
    noise = np.array([-2, -1, 0, 1, 2]) * np.sqrt(2)  # a mean of x has t = x on 4 degrees of freedom
    lone = trust.examine(paired([0.01 * (noise + 3.2)]), PM)
    assert 0.03 < lone.control_by_group["m0 / digits"].p < 0.05 and any("A/A" in a for a in lone.alarms)
    many = trust.examine(paired([0.01 * (noise + t) for t in (3.2, 0.5, -0.4, -0.8, 0.3, -2.5)]), PM)
    assert many.control_by_group["m0 / digits"].p == pytest.approx(lone.control_by_group["m0 / digits"].p)
    assert not many.alarms


def test_the_interval_of_the_controls_is_over_blocks():
    """Four pairs of a block share what befell the block: as replicates of each other they are a sham."""
    study = planted(blocks=3, noise=0.0001)
    shift = np.array([0.0, 0.05, -0.04])[study.runs["tags.ablate.block"].astype(int)]
    study.runs["metrics.time/train_seconds"] *= np.exp(np.where(study.runs["params.pm"].eq("on"), shift, 0.0))
    found = trust.examine(tidy(study), PM)
    mean, low, high = student_t.mean_interval([0.0, 0.05, -0.04])
    assert np.log([found.control.value, found.control.low, found.control.high]) == pytest.approx(
        [mean, low, high], abs=2e-3
    )
    assert (found.control.runs, found.control.blocks) == (12, 3) and not found.alarms
    one_block = trust.examine(tidy(planted(blocks=1)), PM).control
    assert (one_block.runs, one_block.blocks) == (4, 1) and one_block.low < 1 < one_block.high


def test_a_block_that_copies_another_is_named():
    study = planted(models=("m1", "m2"), blocks=4, noise=0.01)
    times = study.runs.set_index(["tags.ablate.block", "params.model", "params.techniques"])[TIME]
    for cells, named in ((0, False), (1, False), (2, True)):
        copied = study.runs.copy()
        at = copied["tags.ablate.block"].eq("3") & copied["params.model"].eq("m2")
        at &= copied["params.techniques"].isin(["baseline", "ga"][:cells])
        copied.loc[at, TIME] = [times["1", "m2", cell] for cell in copied.loc[at, "params.techniques"]]
        alarms = trust.examine(tidy(replace(study, runs=copied)), frozenset()).alarms
        assert any("3 copies 1." in a and "last digit" in a for a in alarms) == named


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0.0, "zero"),
        (-3.0, "negative"),
        (np.nan, "unknown"),
        (np.inf, "infinite"),
        (1.7976931348623157e308, "infinite"),
    ],
)
def test_finished_runs_whose_time_no_estimate_can_use_are_named(value, kind):
    study = planted(blocks=2)
    study.runs.loc[:3, TIME] = value
    study.runs.loc[3, "tags.ablate.outcome"] = "oom"
    study.runs.loc[4, "metrics.energy/gpu_joules"] = np.nan  # nothing was recorded
    study.runs.loc[5, "metrics.energy/gpu_joules"] = 0.0
    names, tidied = study.runs["tags.mlflow.runName"], tidy(study).runs["name"]
    cells = tidied[tidied.isin(names[:3])]
    alarms = trust.examine(tidy(study), frozenset()).alarms
    assert {a for a in alarms if "finished run" in a} == {
        f"3 finished runs with {kind} training time ({', '.join(cells)}): in no estimate of it.",
        f"1 finished run with zero GPU energy ({names[5]}): in no estimate of it.",
    }


def test_what_no_run_has_is_no_fault():
    study = planted(blocks=2, gpu=False)
    assert not trust.examine(tidy(study), frozenset()).alarms
    without = study.runs.drop(columns=TIME)
    assert not trust.examine(tidy(replace(study, runs=without)), frozenset()).alarms


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


@pytest.mark.parametrize("gone", [["tags.ablate.position", "start_time"], ["tags.ablate.block", "start_time"]])
def test_a_store_that_knows_no_order_has_no_drift_and_a_report_all_the_same(gone, tmp_path):
    study = planted(blocks=3)
    study = replace(study, runs=study.runs.drop(columns=gone))
    assert written_report(study, tmp_path)
    if "tags.ablate.position" in gone:
        assert trust.examine(tidy(study), frozenset()).drift is None


def test_a_tainted_run_that_is_in_no_estimate_is_not_counted():
    study = planted(blocks=2)
    study.runs.loc[[3, 4], "tags.ablate.tainted"] = "other processes used 1.4 of 2 cores during 12 of 30 s"
    study.runs.loc[3, "tags.ablate.outcome"] = "failed"
    (alarm,) = [a for a in trust.examine(tidy(study), frozenset()).alarms if "tainted" in a]
    assert alarm == (
        "1 tainted run is part of the estimates (other processes used 1.4 of 2 cores during 12 of 30 s); "
        "--rerun-tainted repeats it."
    )


def test_taint_counts_where_an_estimate_has_it():
    study = planted(blocks=2, techniques=("amp",))
    runs = study.runs.assign(**{"tags.ablate.tainted": ""})
    runs.loc[runs.index[0], "tags.ablate.tainted"] = "load"
    alarms = trust.examine(tidy(replace(study, runs=runs)), frozenset()).alarms
    assert any(alarm.startswith("1 tainted run is part of the estimates") for alarm in alarms)
    alone = runs[runs["params.amp"].eq("off")].assign(**{"tags.ablate.tainted": "load"})
    assert not any("tainted" in alarm for alarm in trust.examine(tidy(replace(study, runs=alone)), frozenset()).alarms)
    failed = runs.assign(**{"tags.ablate.outcome": "failed", "tags.ablate.tainted": "load"})
    assert not any("tainted" in alarm for alarm in trust.examine(tidy(replace(study, runs=failed)), frozenset()).alarms)


def test_a_drift_that_is_not_known_has_a_reason():
    assert "each setting ran once" in trust.examine(tidy(planted(blocks=1)), frozenset()).drift_unknown
    assert trust.examine(tidy(planted(blocks=3)), frozenset()).drift_unknown == ""
