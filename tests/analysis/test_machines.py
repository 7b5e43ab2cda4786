"""The next machine: random machines with a planted spread, what is left out, what changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis import machines, student_t
from pipeline.analysis.effects import estimate
from pipeline.analysis.frame import tidy
from pipeline.analysis.report.headlines import summary_lines
from tests.support.planted import planted
from tests.support.reports import pages_of, report_of

TIME = "metrics.time/train_seconds"


def on_machines(count, per_machine=2, tau=0.05, seed=0, **options):
    """Blocks in turn on machines, on each of which `amp` acts in its own way."""
    study = planted(blocks=count * per_machine, seed=seed, **options)
    runs = study.runs.copy()
    machine = runs["tags.ablate.block"].astype(int) % count
    runs["tags.env.gpu_uuid"] = "GPU-" + machine.astype(str)
    shift = np.random.default_rng([seed, 1]).normal(0, tau, count)[machine]
    runs[TIME] *= np.exp(np.where(runs["params.amp"].eq("on"), shift, 0.0))
    return replace(study, runs=runs)


def found(study, term="amp", kind="main", model="resnet"):
    (row,) = [r for r in machines.next_machine(estimate(study)) if (r.term, r.kind, r.model) == (term, kind, model)]
    return row


def test_the_interval_is_the_prediction_of_another_machine_s_mean():
    study = on_machines(4)
    row = found(study)
    runs = study.runs
    logs = np.log(runs[TIME]) * np.where(runs["params.amp"].eq("on"), 1, -1) / 4
    blocks = logs.groupby([runs["tags.env.gpu_uuid"], runs["tags.ablate.block"]]).sum()
    means = blocks.groupby(level=0).mean()
    reach = student_t.quantile(0.975, 3) * means.std() * np.sqrt(1.25)
    assert (row.machines, row.blocks) == (4, 8)
    assert np.log([row.next_estimate, row.next_low, row.next_high]) == pytest.approx(
        [means.mean(), means.mean() - reach, means.mean() + reach]
    )
    assert row.low < row.estimate < row.high


def test_the_spread_between_machines_is_that_of_reml_on_balanced_data():
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    machine = np.repeat(np.arange(5), 4)
    values = rng.normal(0, 1.0, 5)[machine] + rng.normal(0, 0.5, 20)
    fitted = sm.MixedLM(values, np.ones(20), groups=machine).fit(reml=True)
    assert machines.component(values, machine) == pytest.approx(float(fitted.cov_re[0, 0]), rel=1e-4)


def test_one_machine_says_nothing_and_two_say_that_they_cannot_tell():
    assert machines.next_machine(estimate(planted(blocks=4))) == []
    study = on_machines(2)
    row = found(study)
    assert np.isnan(row.next_low) and np.isfinite(row.spread)
    assert any("two machines cannot tell" in line for line in summary_lines(report_of(study)))


def test_a_block_on_several_machines_is_left_out_and_named():
    study = on_machines(3)
    runs = study.runs.copy()
    runs.loc[runs.index[runs["tags.ablate.block"].eq("4")][:3], "tags.env.gpu_uuid"] = "GPU-7"
    study = replace(study, runs=runs)
    assert found(study).blocks == 5
    assert machines.mixed_blocks(tidy(study)) == "4"
    assert any("Blocks that ran on several machines (4)" in alarm for alarm in report_of(study).trust.alarms)


def test_names_of_machines_and_the_order_of_runs_change_nothing():
    study = on_machines(3)
    runs = study.runs.sample(frac=1, random_state=1)
    renamed = runs.assign(**{"tags.env.gpu_uuid": runs["tags.env.gpu_uuid"].map(lambda name: name[::-1])})
    one, other = (machines.next_machine(estimate(s)) for s in (study, replace(study, runs=renamed)))
    for a, b in zip(one, other, strict=True):
        assert (a.term, a.kind) == (b.term, b.kind)
        assert [a.next_low, a.next_high, a.spread] == pytest.approx([b.next_low, b.next_high, b.spread], rel=1e-9)


def test_the_report_sets_the_next_machine_beside_these():
    report = report_of(on_machines(3, models=("m1", "m2")))
    assert {row.model for row in report.machines} == {"all", "m1", "m2"}
    for page in pages_of(report):
        assert "Several machines" in page and "on the next one like them" in page


@pytest.mark.slow
def test_the_next_machine_s_mean_is_covered():
    """Machine effects and noise of one size: means of two blocks on four machines, then on a fifth."""
    rng = np.random.default_rng(5)
    shape = (4000, 5, 2)
    values = (rng.normal(0, 0.03, shape[:2])[..., None] + rng.normal(0, 0.03, shape)).mean(axis=2)
    known, fresh = values[:, :4], values[:, 4]
    mean, half = machines.next_interval(known.T)
    assert 100 * (np.abs(fresh - mean) <= half).mean() == pytest.approx(95, abs=1)
