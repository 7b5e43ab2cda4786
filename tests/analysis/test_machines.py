"""The next machine: random machines with a planted spread, what is left out, what changes nothing."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import contrasts, machines, student_t
from pipeline.analysis.effects import estimate
from pipeline.analysis.frame import Factor, tidy
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.headlines import machine_lines, summary_lines
from tests.support.planted import TRUTH, effect_of, planted, without
from tests.support.reports import pages_of, report_of

TIME = "metrics.time/train_seconds"
HOST, GPU, BLOCK = "tags.env.hostname", "tags.env.gpu_uuid", "tags.ablate.block"


def on_machines(count, per_machine=2, tau=0.05, seed=0, **options):
    """Blocks in turn on machines, on each of which `amp` acts in its own way."""
    study = planted(blocks=count * per_machine, seed=seed, **{"techniques": ("ga", "amp"), **options})
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
    logs = np.log(runs[TIME]) * np.where(runs["params.amp"].eq("on"), 1, -1) / 2
    blocks = logs.groupby([runs["tags.env.gpu_uuid"], runs["tags.ablate.block"]]).sum()
    means = blocks.groupby(level=0).mean()
    reach = student_t.quantile(0.975, 3) * means.std() * np.sqrt(1.25)
    assert (row.machines, row.blocks) == (4, 8)
    assert np.log([row.next_estimate, row.next_low, row.next_high]) == pytest.approx(
        [means.mean(), means.mean() - reach, means.mean() + reach]
    )
    assert row.low < row.estimate < row.high


def test_the_spread_between_machines_is_that_of_reml_on_balanced_data():
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(3)
    machine = np.repeat(np.arange(5), 4)
    values = rng.normal(0, 1.0, 5)[machine] + rng.normal(0, 0.5, 20)
    fitted = MixedLM(values, np.ones(20), groups=machine).fit(reml=True)
    assert machines.component(values, machine) == pytest.approx(float(fitted.cov_re[0, 0]), rel=1e-4)


def test_one_machine_says_nothing_and_two_say_that_they_cannot_tell():
    assert machines.next_machine(estimate(planted(blocks=4))) == []
    study = on_machines(2)
    row = found(study)
    assert np.isnan(row.next_low) and np.isfinite(row.spread)
    assert any("two GPUs cannot tell" in line for line in summary_lines(report_of(study)))


def test_a_block_on_several_machines_is_left_out_and_named():
    study = on_machines(3)
    runs = study.runs.copy()
    runs.loc[runs.index[runs["tags.ablate.block"].eq("4")][:3], "tags.env.gpu_uuid"] = "GPU-7"
    study = replace(study, runs=runs)
    assert (found(study).blocks, found(study).left_out) == (5, ("4",))
    assert machines.mixed_blocks(tidy(study)) == ["4"]
    assert any("Blocks that ran on several GPUs or hosts (4)" in alarm for alarm in report_of(study).trust.alarms)


def test_an_incomplete_block_is_left_out_and_named():
    study = on_machines(3, per_machine=4)
    row = found(without(study, study.runs["run_id"].isin(["resnet-digits-ga-5", "resnet-digits-amp-10"])))
    assert (row.machines, row.blocks, row.left_out) == (3, 10, ("5", "10"))


def test_a_cell_that_never_finished_leaves_the_contrasts_of_the_plan():
    """Every second cell is out of memory: what is left looks like a fraction, and is none."""
    study = on_machines(3, techniques=("ga", "amp", "pm"))
    runs = study.runs
    runs.loc[runs[["params.ga", "params.amp", "params.pm"]].eq("on").sum(axis=1) % 2 == 0, "tags.ablate.outcome"] = (
        "oom"
    )
    rows = machines.next_machine(estimate(study))
    assert not [row for row in rows if row.kind == "main"]


def test_gpus_of_several_hosts_are_no_sample_of_their_own():
    """Ray keeps a block on one node and gives its runs to any of the node's GPUs."""
    study = on_machines(4)
    study.runs[HOST] = study.runs[GPU].str.replace("GPU", "host")
    hosts = found(study)
    study.runs[GPU] += "-" + (study.runs["tags.ablate.position"].astype(int) % 8).astype(str)
    spread = found(study)
    assert (spread.unit, spread.machines, spread.blocks) == ("host", 4, 8)
    assert spread == hosts


def test_a_container_s_new_name_makes_no_other_machine():
    study = planted(blocks=6, techniques=("ga", "amp"))
    study.runs[GPU], study.runs[HOST] = "GPU-0", "container-" + (study.runs.index // 10).astype(str)
    report = report_of(study)
    assert report.machines == [] and report.trust.alarms == ()
    several = on_machines(3)  # each container sees two of its host's GPUs: the first and another one
    runs, block = several.runs, several.runs[BLOCK]
    runs[HOST] = "container-" + block
    runs[GPU] += "-" + block.where(runs["params.techniques"].ne("baseline"), "first")
    row = found(several)
    assert (row.unit, row.machines, row.blocks) == ("host", 3, 6)


def test_without_a_uuid_host_and_name_tell_gpus_apart():
    study = on_machines(3).runs.assign(**{GPU: None})
    study[HOST] = "host-" + (study[BLOCK].astype(int) % 3).astype(str)
    assert found(replace(planted(), runs=study)) == replace(found(on_machines(3)), unit="host")


@cache
def three_machines():
    effects = estimate(on_machines(3, seed=3))
    return effects, machines.next_machine(effects)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), names=st.permutations(["a", "b", "c"]))
def test_names_of_machines_and_the_order_of_runs_change_nothing(seed, names):
    effects, one = three_machines()
    runs = effects.study.runs.sample(frac=1, random_state=seed).reset_index(drop=True)
    runs["machine"] = runs["machine"].map(lambda name: names[int(name[-1])])
    other = machines.next_machine(replace(effects, study=replace(effects.study, runs=runs)))
    pd.testing.assert_frame_equal(pd.DataFrame(one), pd.DataFrame(other), rtol=1e-9)


def test_the_report_sets_the_next_machine_beside_these():
    study = on_machines(3, models=("m1", "m2"))
    report = report_of(without(study, study.runs["run_id"].eq("m1-digits-ga-5")))
    assert {row.model for row in report.machines} == {"all", "m1", "m2"}
    lines = [line for line in summary_lines(report) if "on the next GPU like them [" in line]
    assert len(lines) == 3 and all("x as fast on these 3 GPUs [" in line for line in lines)
    for page in pages_of(report):
        assert "Several machines" in page and "without 5" in page and "on the next GPU like them" in page
    rows = report_document(report)["machines"]
    assert rows[0].keys() >= {"unit", "machines", "left_out", "low", "next_low", "spread"}
    assert [row["blocks"] for row in rows if row["term"] == "amp" and row["kind"] == "main"] == [5, 5, 6]


def test_groups_that_share_no_block_each_have_their_lines():
    study = on_machines(6, per_machine=1, models=("m1", "m2"))
    apart = without(study, study.runs["params.model"].eq("m1") != study.runs[BLOCK].astype(int).lt(3))
    lines = machine_lines(report_of(apart))
    assert [sum(line.startswith(model) for line in lines) for model in ("m1", "m2")] == [3, 3]


@pytest.mark.slow
def test_the_next_machine_s_mean_is_covered():
    """4,000 studies of two blocks on four machines, then on a fifth: on each, `amp` acts in its own way."""
    rng = np.random.default_rng(5)
    names = ("ga", "amp", "pm")
    cells = list(product(("off", "on"), repeat=3))
    truth = np.array([effect_of({n: v == "on" for n, v in zip(names, c, strict=True)}, TRUTH) for c in cells])
    shape = (4000, 5, 2, 8)
    own = rng.normal(0, 0.03, (*shape[:2], 1, 1)) * np.array([c[1] == "on" for c in cells])
    logs = truth + own + rng.normal(0, 0.05, (*shape[:3], 1)) + rng.normal(0, 0.03, shape)
    kept = [
        c for c in contrasts.build_contrasts(cells, cells, [Factor(n, ("on",)) for n in names]) if "amp" in c.techniques
    ]
    for contrast in kept:
        if contrast.kind in machines.KINDS:
            values = (logs @ contrast.weights).mean(axis=2)
            mean, half = machines.next_interval(values[:, :4].T)
            covered = 100 * (np.abs(values[:, 4] - mean) <= half).mean()
            print(contrast.kind, contrast.term, f"{covered:.1f} %")
            assert covered == pytest.approx(95, abs=1), contrast.term
            assert mean.mean() == pytest.approx(contrast.weights @ truth, abs=0.002)


def test_the_next_machine_is_never_known_better_than_these():
    """Means of few machines lie close by chance: as those of `ga` do, which acts alike on all."""
    rows = machines.next_machine(estimate(on_machines(4, models=("m1", "m2"))))
    assert rows
    for row in rows:
        assert row.next_high / row.next_low >= row.high / row.low * (1 - 1e-12)
