"""Which cell is recommended."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import linear, recommendation, variance, verdicts
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


def test_a_cell_is_recommended_by_its_corrected_verdict():
    """Its uncorrected interval lies below 1, and that of one whose effect is within the margin does too."""
    study = planted(blocks=3, noise=0.01, truth={})
    effects = estimate(study)
    timed = effects.cells["response"].eq("train_seconds") & effects.cells["cell"].ne("baseline")
    for verdict, recommended in (("undecided", "baseline"), ("no_effect", "baseline"), ("pays", "ga")):
        cells = effects.cells.assign(verdict=effects.cells["verdict"].where(~timed, "undecided"))
        at = timed & cells["cell"].eq("ga")
        cells.loc[at, ["estimate", "low", "high", "se"]] = [0.995, 0.992, 0.998, 0.0005]
        cells.loc[at, "verdict"] = verdict
        assert recommendation.recommend(replace(effects, cells=cells), study)[0].cell == recommended


def test_what_to_expect_of_the_fastest_is_less_than_was_measured():
    best = advice(planted(blocks=3, noise=0.02, seed=2, truth={"ga": np.log(0.9), "amp": np.log(0.9)}))
    assert best.low < best.ratio < best.expected < best.high and best.compared == 7
    assert f"measured {best.ratio:.3f} [{best.low:.3f}, {best.high:.3f}]; expect {best.expected:.3f}" in best.reason
    assert "shrunk because it is the best of 7" in best.reason


@pytest.mark.parametrize(("techniques", "compared"), [(("amp",), 1), (("amp", "ga"), 3)])
def test_a_single_cell_is_the_best_of_none(techniques, compared):
    best = advice(planted(blocks=5, noise=0.01, techniques=techniques, truth={"amp": np.log(0.8)}))
    assert best.compared == compared and (best.expected > best.ratio) == (compared > 1)
    assert ("best of" in best.reason) == (compared > 1)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_cells_shrink_as_efron_and_morris_say(scale):
    """Against the rule for independent means: 8 of them, the baseline's among them, each with a variance of 2."""
    means = scale * np.array([0.0, -3, 1, 2, -1, 0.5, 4, -2])
    keep = max(0.0, 1 - 5 * 2.0 / ((means - means.mean()) ** 2).sum())
    shrunk = means.mean() + keep * (means - means.mean())
    np.testing.assert_allclose(recommendation.shrink(means[1:], np.full(7, 2.0)), shrunk[1:] - shrunk[0], atol=1e-12)
    assert (keep == 0) == (scale < 1)


def test_a_control_is_never_recommended():
    study = planted(blocks=5, noise=0.003, device="cpu", gpu=False, truth={"pm": np.log(0.9), "amp": np.log(0.8)})
    assert "amp" in advice(study).cell
    assert "pm" not in advice(study).cell


def test_without_recipe_fields_the_recommendation_names_techniques():
    study = planted(blocks=5, noise=0.003)
    bare = study.runs.drop(columns=[c for c in study.runs if c.startswith("params.recipe.")])
    assert advice(replace(study, runs=bare)).set_line.startswith("--techniques ga,amp")


GROUPS, BLOCKS = 6, 3


def against_baseline(times):
    """Judge log times (groups, cells, blocks, studies) as `estimate` does: (groups * 7, studies) of each number."""
    studies = times.shape[-1]
    design = linear.layout(np.tile(np.arange(8), BLOCKS), np.repeat(np.arange(BLOCKS), 8), 8)
    y = times.transpose(2, 1, 0, 3).reshape(8 * BLOCKS, -1)
    by_block = BLOCKS >= variance.BLOCKS_FOR_CR2
    fit = variance.fit_design(design, np.eye(8)[1:] - np.eye(8)[0], y, by_block=by_block)
    numbers = np.broadcast_arrays(fit.estimate, np.sqrt(fit.variance), fit.dof[:, None])
    parts = [v.reshape(7, GROUPS, studies).swapaxes(0, 1) for v in numbers]
    value, se, dof = (v.reshape(7 * GROUPS, studies) for v in parts)
    p, half = verdicts.holm(verdicts.p_values(value, se, dof)), verdicts.half_widths(se, dof, 0.95)
    judged = verdicts.verdicts(value, se, dof, p, np.log(1.01), False, 0.05)
    ratios = {"estimate": np.exp(value), "low": np.exp(value - half), "high": np.exp(value + half)}
    return ratios | {"se": se, "dof": np.broadcast_to(dof, se.shape), "verdict": judged}


def advised(truth, studies):
    """Recommend in studies of six groups with these log times of their cells: what differs from the baseline."""
    study = planted(models=tuple(f"m{i}" for i in range(GROUPS)), blocks=BLOCKS)
    effects = estimate(study)
    runs = effects.study.runs  # by model, cell and block
    cells = effects.cells[effects.cells["response"].eq("train_seconds") & effects.cells["cell"].ne("baseline")]
    own = against_baseline(np.log(runs["train_seconds"].to_numpy()).reshape(GROUPS, 8, BLOCKS, 1))
    assert (own.pop("verdict")[:, 0] == cells["verdict"]).all()
    for name, values in own.items():
        np.testing.assert_allclose(values[:, 0], cells[name].to_numpy(), err_msg=name)
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 0.02, (GROUPS, 8, BLOCKS, studies)) + rng.normal(0, 0.05, (GROUPS, 1, BLOCKS, studies))
    numbers = against_baseline(np.asarray(truth)[:, None, None] + noise)

    def repeated(frame):
        many = frame.loc[np.repeat(frame.index, studies)]
        return many.assign(model=many["model"] + np.tile([f"/{i}" for i in range(studies)], len(frame)))

    table = repeated(cells).assign(**{name: values.ravel() for name, values in numbers.items()})
    tidy = replace(effects.study, runs=repeated(runs[runs["block"].eq("0")]))
    found = recommendation.recommend(replace(effects, cells=table, study=tidy), study)
    assert len(found) == GROUPS * studies
    chosen = pd.DataFrame([vars(r) for r in found if r.cell != "baseline"])
    return chosen.assign(true=chosen["cell"].map(dict(zip(dict.fromkeys(runs["cell"]), truth, strict=True))))


@pytest.mark.slow
def test_without_any_effect_few_reports_recommend_something():
    found = advised(np.zeros(8), 2000)
    share = found["model"].str.partition("/")[2].nunique() / 2000
    print(f"{100 * share:.2f} % of null reports with {GROUPS} groups recommend something")
    assert 0.005 < share < 0.05
    assert np.log(found["expected"]).mean() > np.log(found["ratio"]).mean()


@pytest.mark.slow
def test_the_expected_ratio_is_less_too_good_than_the_measured_one():
    found = advised(np.log([1, 0.98, 0.97, 0.965, 0.96, 0.955, 0.96, 0.95]), 1000)
    measured, expected = (found["true"] - np.log(found[name]) for name in ("ratio", "expected"))
    print(
        f"too good by {100 * measured.mean():.2f} +- {100 * measured.sem():.2f} %, shrunk {100 * expected.mean():.2f}"
    )
    assert 0 < expected.mean() < measured.mean() - 3 * (measured - expected).sem()
