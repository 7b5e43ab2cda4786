"""Averages over models and data sets."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.effects import estimate
from tests.support.planted import planted, rows


def test_pooled_rows_average_the_groups():
    effects = estimate(planted(models=("m1", "m2"), datasets=("d1", "d2")))
    groups = rows(effects, term="amp", kind="main")
    single = groups[groups["model"].ne("all") & groups["dataset"].ne("all")]
    pooled = groups[groups["model"].eq("all") & groups["dataset"].eq("all")].iloc[0]
    assert len(groups) == 9
    assert pooled["log_estimate"] == pytest.approx(single["log_estimate"].mean(), abs=1e-12)
    assert pooled["se"] == pytest.approx(np.sqrt((single["se"] ** 2).sum()) / 4)
    assert pooled["dof"] > single["dof"].max()


def test_from_four_blocks_pooled_errors_are_a_paired_t_test_of_the_groups_mean_over_blocks():
    """Complete data: the average over groups in each block is one value, and the blocks are the sample."""
    from scipy import stats

    study = planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=5)
    pooled = rows(estimate(study), term="amp", kind="main", model="all", dataset="all").iloc[0]
    logs = np.log(study.runs["metrics.time/train_seconds"]) * np.where(study.runs["params.amp"].eq("on"), 1, -1) / 4
    values = logs.groupby([study.runs["tags.ablate.block"]]).sum() / 4
    expected = stats.ttest_1samp(values, 0.0)
    assert pooled["method"] == "cr2"
    assert pooled["log_estimate"] / pooled["se"] == pytest.approx(expected.statistic, rel=1e-9)
    assert pooled["dof"] == pytest.approx(4, rel=1e-9)


def test_pooled_errors_of_incomplete_data_are_cr2_of_one_model_of_all_groups():
    """Scores are added block by block: the same as one dense model with every group's own cells and blocks."""
    study = planted(models=("m1", "m2"), techniques=("ga", "amp"), blocks=5)
    study = replace(study, runs=study.runs.drop(index=study.runs.index[[3, 17, 22]]))
    pooled = rows(estimate(study), term="amp", kind="main", model="all").iloc[0]
    runs = study.runs.assign(cell=study.runs["params.ga"] + study.runs["params.amp"])
    group = runs["params.model"].to_numpy()
    own = [np.array([f"{g}/{v}" for g, v in zip(group, runs[c], strict=True)]) for c in ("cell", "tags.ablate.block")]
    names = [np.unique(column, return_inverse=True) for column in own]
    model = np.column_stack([np.eye(len(n))[i] for n, i in names])
    weights = np.zeros(model.shape[1])
    for i, name in enumerate(names[0][0]):
        weights[i] = 0.25 if name.endswith("on") else -0.25
    inverse = np.linalg.pinv(model)
    loading, maker = weights @ inverse, np.eye(len(runs)) - model @ inverse
    y = np.log(runs["metrics.time/train_seconds"].to_numpy())
    form = np.zeros_like(maker)
    for block in runs["tags.ablate.block"].unique():
        at = np.flatnonzero(runs["tags.ablate.block"].eq(block))
        values, vectors = np.linalg.eigh(maker[np.ix_(at, at)])
        seen = values > 1e-9
        a = vectors[:, seen] / np.sqrt(values[seen]) @ vectors[:, seen].T @ loading[at]
        form[np.ix_(at, at)] = np.outer(a, a)
    e = maker @ y
    both = form @ maker
    assert pooled["log_estimate"] == pytest.approx(loading @ y, abs=1e-12)
    assert pooled["se"] == pytest.approx(np.sqrt(e @ form @ e), rel=1e-9)
    assert pooled["dof"] == pytest.approx(np.trace(both) ** 2 / np.trace(both @ both), rel=1e-8)


def test_what_a_group_says_of_its_effect_is_said_of_the_average():
    study = planted(models=("m1", "m2"), techniques=("ga", "amp"))
    gone = study.runs["params.model"].eq("m1") & study.runs["params.ga"].eq("on") & study.runs["params.amp"].eq("on")
    study.runs.loc[gone, ["status", "tags.ablate.outcome"]] = ["FAILED", "oom"]
    pooled = rows(estimate(study), term="amp", kind="main", model="all").iloc[0]
    assert "averaged over 1 of 2 settings" in pooled["note"]


def test_groups_without_a_shared_block_are_independent():
    """As rounds of cells that took turns are."""
    study = planted(models=("resnet", "vit"), blocks=6, noise=0.02)
    runs = study.runs.assign(**{"tags.ablate.block": study.runs["params.model"] + study.runs["tags.ablate.block"]})
    found = estimate(replace(study, runs=runs))
    details = found.table.join(found.details.drop(columns="blocks"))
    rows = details[details["response"].eq("train_seconds") & details["kind"].eq("main") & details["term"].eq("ga")]
    pooled = rows[rows["model"].eq("all")].iloc[0]
    own = rows[rows["model"].ne("all")]
    assert pooled["se"] == pytest.approx(((own["se"] ** 2).sum() / 4) ** 0.5) and len(own) == 2
