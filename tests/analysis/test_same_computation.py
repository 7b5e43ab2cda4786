"""Cells that are the same computation and took different times: said first, and seldom for nothing."""

import numpy as np
import pytest

from pipeline.analysis import trust
from pipeline.analysis.frame import tidy
from pipeline.analysis.same_computation import differing
from tests.support.planted import planted

PM = frozenset({"pm"})
TIME = "metrics.time/train_seconds"


def disturbed(study, cell, by):
    """Lets one run of a cell take longer."""
    at = study.runs.index[study.runs["params.techniques"].eq(cell)][0]
    study.runs.loc[at, TIME] *= by
    return study, study.runs.loc[at, TIME]


def test_two_runs_of_the_same_computation_that_differ_are_the_first_alarm():
    models = ("m1", "m2", "m3", "m4", "m5", "m6")
    study, seconds = disturbed(planted(models=models, blocks=1, noise=0.01, drift=0.1), "amp+pm", 3.4)
    found = trust.examine(tidy(study), PM)
    assert found.alarms[0].startswith("amp and amp+pm are the same computation here, yet took ")
    assert f" and {seconds:.3g} s (m" in found.alarms[0] and "/ digits, block 0): " in found.alarms[0]
    both, _ = disturbed(study, "ga", 3.0)
    assert "block 0, and one more such pair" in trust.examine(tidy(both), PM).alarms[0]


def test_a_machine_on_which_all_of_them_scatter_is_no_quiet_one():
    found = trust.examine(tidy(planted(models=("m1", "m2", "m3"), blocks=1, noise=0.3)), PM)
    assert "are the same computation here" in found.alarms[0]
    one_pair = planted(blocks=1, techniques=("pm",), truth={"pm": 0.3})
    assert "baseline and pm are the same computation" in trust.examine(tidy(one_pair), PM).alarms[0]


@pytest.mark.parametrize("pairs", [1, 2, 4, 8, 24, 72])
@pytest.mark.parametrize("noise", [0.003, 0.02, 0.05])
def test_a_quiet_machine_alarms_in_one_report_of_twenty_at_most(pairs, noise):
    """Pairs of runs with this noise, in 2,000 studies."""
    logs = np.random.default_rng(7).normal(0, noise * np.sqrt(2), (2000, pairs))
    assert differing(logs).any(axis=-1).mean() <= 0.05


def test_a_pair_three_times_apart_never_goes_unseen():
    for noise in (0.01, 0.05, 0.2, 0.5):
        logs = np.random.default_rng(8).normal(0, noise * np.sqrt(2), (500, 24))
        logs[:, 5] = np.log(3.4)
        assert differing(logs).any(axis=-1).all()


def test_turns_are_no_single_runs():
    study = planted(blocks=1, noise=0.3)
    assert any("same computation" in alarm for alarm in trust.examine(tidy(study), PM).alarms)
    study.runs["tags.ablate.kind"] = "turns"
    assert not any("same computation" in alarm for alarm in trust.examine(tidy(study), PM).alarms)
