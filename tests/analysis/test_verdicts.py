"""Decisions against statsmodels and the definitions."""

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis import verdicts


def test_holm_agrees_with_statsmodels_and_skips_missing_tests():
    from statsmodels.stats.multitest import multipletests

    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(verdicts.holm(p), multipletests(p, method="holm")[1])
    holed = verdicts.holm([0.01, np.nan, 0.04])
    np.testing.assert_allclose(holed, [0.02, np.nan, 0.04])
    columns = np.column_stack([p, p[::-1], np.where(p > 0.5, np.nan, p)])
    each = np.column_stack([verdicts.holm(column) for column in columns.T])
    np.testing.assert_array_equal(verdicts.holm(columns), each)


def test_equivalence_agrees_with_statsmodels_tost():
    from statsmodels.stats.weightstats import DescrStatsW

    rng = np.random.default_rng(0)
    for shift in (0.0, 0.005, 0.02):
        x = rng.normal(shift, 0.01, size=12)
        p = DescrStatsW(x).ttost_mean(-0.01, 0.01)[0]
        se = x.std(ddof=1) / np.sqrt(12)
        assert bool(verdicts.equivalent(x.mean(), se, 11, 0.01, 0.05)) == (p < 0.05)


@pytest.mark.parametrize(
    ("estimate", "se", "adjusted", "higher", "expected"),
    [
        (-0.10, 0.01, 0.001, False, "pays"),
        (0.10, 0.01, 0.001, False, "costs"),
        (0.10, 0.01, 0.001, True, "pays"),
        (0.001, 0.001, 0.4, False, "no_effect"),
        (-0.004, 0.0005, 0.001, False, "no_effect"),  # significant, yet too small to matter
        (-0.03, 0.02, 0.2, False, "undecided"),
        (-0.03, np.nan, np.nan, False, "undecided"),
    ],
)
def test_verdicts(estimate, se, adjusted, higher, expected):
    found = verdicts.verdicts([estimate], [se], [10], [adjusted], [0.01], [higher], 0.05)
    assert found.tolist() == [expected]


def test_a_deterministic_response_is_decided_without_an_error():
    assert verdicts.p_values([0.0, 1e-14, -0.5], [0.0, 1e-16, 0.0], [7, 7, 7]).tolist() == [1.0, 1.0, 0.0]
    assert verdicts.half_widths([0.0], [7], 0.95).tolist() == [0.0]


def test_the_factors_of_holm_are_not_cut_where_its_p_values_are():
    assert verdicts.holm_factors([0.5, 0.01, 0.5, np.nan, 0.0]).tolist() == [2, 3, 2, 1, 1]
    assert verdicts.holm_factors([0.5, 0.6, 0.7]).tolist() == pytest.approx([3, 2.5, 1.5 / 0.7])
    p = np.random.default_rng(0).uniform(0, 0.02, (9, 4))
    np.testing.assert_allclose(verdicts.holm_factors(p) * p, verdicts.holm(p))


PLANS = {"margin": np.log1p(0.01), "penalty": 3.0, "alpha": 0.05}


def chance(more, estimate, se, dof, blocks, margin, penalty, alpha):
    """Spread scatter and estimate to come evenly over their distributions; the share that either test decides."""
    v = dof / stats.chi2.isf((np.arange(500) + 0.5) / 500, dof)
    total = blocks + more
    freedom, part = dof * (total - 1) / (blocks - 1), (blocks - 1) / (total - 1)
    error = se * np.sqrt(blocks / total * (part + (1 - part) * v))
    z = stats.norm.isf((np.arange(1000) + 0.5) / 1000)[:, None]
    found = np.abs(estimate + se * np.sqrt(v * more / total) * z)
    differs = found > stats.t.isf(alpha / 2 / penalty, freedom) * error
    return (differs | verdicts.equivalent(found, error, freedom, margin, alpha)).mean()


@pytest.mark.parametrize(
    ("estimate", "se", "dof", "blocks"), [(0.03, 0.02, 14, 3), (0.0, 0.008, 3, 4), (-0.02, 0.01, 4, 5)]
)
def test_further_blocks_is_the_least_number_that_decides_with_the_stated_chance(estimate, se, dof, blocks):
    more = verdicts.further_blocks([estimate], [se], dof, blocks, **PLANS)[0]
    off = 0.005  # scatter in 16 parts against 500
    assert chance(more, estimate, se, dof, blocks, **PLANS) > verdicts.CHANCE - off
    assert chance(more - 1, estimate, se, dof, blocks, **PLANS) < verdicts.CHANCE + off


def test_what_is_not_known_has_no_plan():
    assert np.isnan(verdicts.further_blocks([0.01], [np.nan], 7, 2, **PLANS)).all()
    assert np.isnan(verdicts.further_blocks([0.0], [0.03], 60, 100, **PLANS)).all(), "over 1000 blocks"


@pytest.mark.parametrize(("blocks", "dof"), [(1, 7 / 3), (2, 1), (2, 14), (5, 4)])
def test_more_blocks_only_help(blocks, dof, monkeypatch):
    steps = np.linspace(0.02, 0.98, 8)
    z, margin = (a.ravel() for a in np.meshgrid(2.5 * steps, 3 * steps))
    plan = verdicts.further_blocks(z, np.ones(64), dof, blocks, margin, 3.0, 0.05)
    held = []
    monkeypatch.setattr(verdicts, "_first_total", lambda succeeds, now, *_: held.append(succeeds) or now)
    verdicts.further_blocks(z, np.ones(64), dof, blocks, margin, 3.0, 0.05)
    enough = np.array([held[0](np.full(64, float(blocks + more))) for more in range(1, 200)])
    assert (np.diff(enough.astype(int), axis=0) >= 0).all()
    np.testing.assert_array_equal(
        np.where(enough.any(axis=0), enough.argmax(axis=0) + 1, 0), np.where(plan < 200, plan, 0)
    )


def test_the_step_to_errors_by_block_is_planned():
    # by run on 14 degrees of freedom at three blocks, by block on three at four
    wide = verdicts.blocks_for_width([0.005], dof=14, blocks=2, width=[0.018], by_block_from=4)
    assert wide.tolist() == [1], "three blocks do, four would not"
    later = verdicts.blocks_for_width([0.005], dof=14, blocks=3, width=[0.018], by_block_from=4)[0]
    total = 3 + later
    width = [2 * stats.t.isf(0.025, n - 1) * 0.005 * np.sqrt(3 / n) for n in (total - 1, total)]
    assert width[1] < 0.018 < width[0]
    plans = [verdicts.further_blocks([0.03], [0.015], 14, 3, **PLANS, by_block_from=n)[0] for n in (1, 4)]
    assert plans[0] < plans[1]


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [2, 3, 5, 10])
@pytest.mark.parametrize("truth", [0.0, 0.01, 0.02, 0.03])
def test_as_many_are_decided_after_the_planned_blocks_as_is_said(blocks, truth):
    """Paired t tests, truth and scatter of what is to come drawn from the posterior distribution of flat priors."""
    rng = np.random.default_rng([blocks, int(100 * truth)])
    estimate = rng.normal(np.log1p(truth), 0.03 / np.sqrt(blocks), 10_000)
    variance = 0.03**2 * rng.chisquare(blocks - 1, 10_000) / (blocks - 1)
    left = ~_decided(estimate, np.sqrt(variance / blocks), blocks - 1)
    estimate, variance = estimate[left], variance[left]
    more = verdicts.further_blocks(estimate, np.sqrt(variance / blocks), blocks - 1, blocks, **PLANS)
    assert not np.isnan(more).any()
    scatter = np.sqrt(variance * (blocks - 1) / rng.chisquare(blocks - 1, len(more)))
    effect = rng.normal(estimate, scatter / np.sqrt(blocks))
    assert 0.79 < _decided_after(more, estimate, variance, blocks, effect, scatter, rng) < 0.84


def _decided(estimate, se, dof):
    """Either test, three techniques with the same p-value."""
    significant = 3 * verdicts.p_values(estimate, se, dof) < 0.05
    return significant | verdicts.equivalent(estimate, se, dof, PLANS["margin"], 0.05)


def _decided_after(more, estimate, variance, blocks, effect, scatter, rng):
    """Run the planned blocks on top of those that there are; the share of decided effects."""
    total = blocks + more
    mean = rng.normal(effect, scatter / np.sqrt(more))
    squares = (blocks - 1) * variance + blocks * more / total * (mean - estimate) ** 2
    squares += scatter**2 * np.where(more > 1, rng.chisquare(np.maximum(more - 1, 1)), 0.0)
    return _decided((blocks * estimate + more * mean) / total, np.sqrt(squares / (total - 1) / total), total - 1).mean()
