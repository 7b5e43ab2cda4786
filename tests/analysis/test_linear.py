"""The linear algebra against independent paths: statsmodels, dense matrices, the textbook."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import contrasts, lenth, linear, robust, student_t, variance, verdicts
from pipeline.analysis.frame import Factor

FACTORS = [Factor(name, ("on",)) for name in ("a", "b", "c")]
CELLS = list(product(("off", "on"), repeat=3))
SIGNS = np.array([[1 if v == "on" else -1 for v in cell] for cell in CELLS])


def balanced(blocks, seed=0):
    rng = np.random.default_rng(seed)
    cells = np.tile(np.arange(8), blocks)
    block = np.repeat(np.arange(blocks), 8)
    return cells, block, rng.normal(size=8 * blocks) + block + 0.3 * cells


def all_contrasts():
    found = contrasts.build_contrasts(CELLS, CELLS, FACTORS)
    return found, np.array([c.weights for c in found])


def unbalanced(seed, blocks=4, drop=6):
    rng = np.random.default_rng(seed)
    cells, block, y = balanced(blocks, seed)
    keep = np.sort(rng.permutation(len(y))[drop:])
    _, block = np.unique(block[keep], return_inverse=True)
    return cells[keep], block, y[keep]


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_balanced_effects_equal_the_textbook_contrast_formula(blocks):
    cells, block, y = balanced(blocks)
    found, weights = all_contrasts()
    fit = variance.fit_design(linear.layout(cells, block, 8), weights, y[:, None])
    for contrast, estimate in zip(found, fit.estimate[:, 0], strict=True):
        if contrast.kind in ("main", "interaction"):
            which = ["abc".index(name) for name in contrast.techniques]
            sign = SIGNS[cells][:, which].prod(axis=1)
            # Textbook: effect = contrast / (n 2^(k-1)); the contract doubles it per order above one.
            textbook = (sign @ y) / (blocks * 4) * 2 ** (len(which) - 1)
            assert estimate == pytest.approx(textbook, abs=1e-12)


def test_agrees_with_statsmodels_anova_table():
    import statsmodels.api as sm
    import statsmodels.formula.api as smf

    cells, block, y = balanced(4)
    found, weights = all_contrasts()
    design = linear.layout(cells, block, 8)
    estimate = variance.fit_design(design, weights, y[:, None]).estimate[:, 0]
    frame = pd.DataFrame({"y": y, "block": block, **dict(zip("abc", SIGNS[cells].T, strict=True))})
    fitted = smf.ols("y ~ C(block) + a*b*c", frame).fit()
    table = sm.stats.anova_lm(fitted, typ=2)
    residual = float((linear.residuals(design, y[:, None]) ** 2).sum())
    assert residual == pytest.approx(float(table.loc["Residual", "sum_sq"]), rel=1e-10)
    assert design.dof == table.loc["Residual", "df"]
    for contrast, value in zip(found, estimate, strict=True):
        if contrast.kind in ("main", "interaction"):
            # Sum of squares of a two-level effect: n (textbook half effect)^2.
            half = value / 2 ** len(contrast.techniques)
            assert len(y) * half**2 == pytest.approx(float(table.loc[contrast.term, "sum_sq"]), rel=1e-9)


def dense(cells, block):
    matrix = np.column_stack([np.eye(cells.max() + 1)[cells], np.eye(block.max() + 1)[block][:, 1:]])
    return matrix, np.eye(len(cells)) - matrix @ np.linalg.pinv(matrix)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), drop=st.integers(0, 9))
def test_unbalanced_estimates_and_their_parts_agree_with_statsmodels_and_dense_matrices(seed, drop):
    import statsmodels.api as sm

    cells, block, y = unbalanced(seed, drop=drop)
    if len(set(cells)) < 8:
        return
    design = linear.layout(cells, block, 8)
    _, weights = all_contrasts()
    if not linear.estimable(design, weights).all() or (design.leverage > 1 - 1e-6).any():
        return
    matrix, maker = dense(cells, block)
    result = sm.OLS(y, matrix).fit()
    padded = np.pad(weights, ((0, 0), (0, matrix.shape[1] - 8)))
    fit = variance.fit_design(design, weights, y[:, None])
    np.testing.assert_allclose(fit.estimate[:, 0], padded @ result.params, atol=1e-10)
    np.testing.assert_allclose(1 - design.leverage, np.diag(maker), atol=1e-10)
    load = linear.loadings_of(design, weights)
    # Clustered by block, over its exact expectation under equal variances.
    e = linear.residuals(design, y[:, None])
    seen = variance.share_between_blocks(design, load)
    paired = variance.paired_variance(design, load, e, seen)
    together = block[:, None] == block[None, :]
    for t, one in enumerate(load.T):
        kernel = np.where(together, np.outer(one, one), 0.0)
        expected = np.trace(kernel @ maker) / (one @ one)
        assert seen[t] == pytest.approx(expected, rel=1e-9)
        if expected > 0.1:
            assert paired[t, 0] == pytest.approx(y @ maker @ kernel @ maker @ y / expected, rel=1e-8)
    assert np.isfinite(fit.variance).all()
    assert (fit.variance > 0).all()
    assert ((fit.dof >= 1) & (fit.dof <= design.dof)).all()


def test_the_paired_variance_of_a_balanced_study_is_that_of_a_paired_t_test():
    from scipy import stats

    cells, block, y = balanced(5)
    design = linear.layout(cells, block, 8)
    weights = np.zeros((1, 8))
    weights[0, 3], weights[0, 0] = 1, -1
    load = linear.loadings_of(design, weights)
    seen = variance.share_between_blocks(design, load)
    paired = variance.paired_variance(design, load, linear.residuals(design, y[:, None]), seen)
    table = y.reshape(5, 8)
    expected = stats.ttest_rel(table[:, 3], table[:, 0])
    assert (table[:, 3] - table[:, 0]).mean() / np.sqrt(paired[0, 0]) == pytest.approx(expected.statistic)


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_degrees_of_freedom_are_satterthwaites_of_the_mixture(blocks):
    cells, block, y = balanced(blocks, seed=4)
    design = linear.layout(cells, block, 8)
    _, weights = all_contrasts()
    fit = variance.fit_design(design, weights, y[:, None])
    centring = np.eye(8) - 1 / 8
    r, slack = robust.robust_residuals(design, y[:, None])
    mean_square = np.bincount(cells, (r**2 / slack)[:, 0]) / blocks
    own = np.maximum(mean_square + (mean_square - mean_square.mean()) / 12, 0.5 * mean_square)
    for t, w in enumerate(weights):
        share = w**2 / (w @ w)
        lean = share.max()
        paired = lean * (blocks - 1) / (blocks + 1)
        v = lean * own / own.mean() + 1 - lean
        white = (share * 13 / 12 - 1 / 96) * 8 / 7
        form = paired * np.outer(w, w) / (w @ w) + (1 - paired) * np.diag(white)
        product_ = form @ centring @ np.diag(v) @ centring
        expected = (blocks - 1) * np.trace(product_) ** 2 / np.trace(product_ @ product_)
        assert fit.dof[t, 0] == pytest.approx(np.clip(expected, 1, design.dof), rel=1e-8), t
        values = y.reshape(blocks, 8) @ w
        mixture = paired * values.var(ddof=1) + (1 - paired) * (w**2 @ own)
        assert fit.variance[t, 0] == pytest.approx(mixture / blocks, rel=1e-8), t


def test_an_outlier_widens_its_own_cells_and_not_the_others():
    cells, block, y = balanced(4, seed=2)
    design = linear.layout(cells, block, 8)
    weights = np.zeros((2, 8))
    weights[0, 1], weights[0, 0] = 1, -1
    weights[1, 5], weights[1, 4] = 1, -1
    spoilt = y.copy()
    spoilt[5] += 40.0  # forty standard deviations, in cell 5
    before, after = (variance.fit_design(design, weights, v[:, None]).variance[:, 0] for v in (y, spoilt))
    assert after[1] > 50 * before[1]
    assert after[0] < 2 * before[0]
    least_squares = (linear.residuals(design, spoilt[:, None])[cells < 2] ** 2).sum()
    robustly = (robust.robust_residuals(design, spoilt[:, None])[0][cells < 2] ** 2).sum()
    assert robustly < least_squares / 10


def test_without_noise_the_robust_fit_finds_nothing():
    cells, block, _ = balanced(3)
    design = linear.layout(cells, block, 8)
    r, slack = robust.robust_residuals(design, (2.0 * cells + block)[:, None])
    assert np.abs(r).max() < 1e-9
    assert (slack > 0).all()


def test_a_cell_that_ran_once_borrows_the_pooled_variance():
    cells, block, y = balanced(3)
    keep = ~((cells == 7) & (block > 0))
    cells, block, y = cells[keep], block[keep], y[keep]
    design = linear.layout(cells, block, 8)
    assert (design.leverage > 1 - 1e-9).sum() == 1
    weights = np.zeros((1, 8))
    weights[0, 7], weights[0, 0] = 1, -1
    fit = variance.fit_design(design, weights, y[:, None])
    pooled = float((linear.residuals(design, y[:, None]) ** 2).sum()) / design.dof
    assert fit.variance[0, 0] > pooled  # at least the lone run's own error
    assert 1 <= fit.dof[0, 0] <= design.dof


def test_a_contrast_between_unconnected_runs_is_not_estimable():
    design = linear.layout(np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1]), 4)
    weights = np.array([[1.0, -1, 0, 0], [1.0, 0, -1, 0]])
    assert linear.estimable(design, weights).tolist() == [True, False]


def test_lenth_on_a_worked_example():
    # Seven contrasts, one large: median |c| = 4, s0 = 6, all but 40 below 15, median of the rest 3.5.
    sigma, dof = lenth.lenth(np.eye(7), np.array([1.0, -2, 3, -4, 5, 6, 40]))
    assert sigma == pytest.approx(1.5 * 3.5)
    assert dof == pytest.approx(7 / 3)
    assert np.isnan(lenth.lenth(np.eye(2), np.array([1.0, 2.0]))[0])


def test_orthonormal_basis_of_mixed_levels():
    basis = lenth.orthonormal_basis((4, 2))
    np.testing.assert_allclose(basis @ basis.T, np.eye(7), atol=1e-12)
    np.testing.assert_allclose(basis.sum(axis=1), 0, atol=1e-12)


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


def test_further_blocks_is_the_least_number_that_decides():
    arguments = {"dof": 7.0, "blocks": 2, "margin": 0.01, "penalty": 3.0, "alpha": 0.05}
    more = verdicts.further_blocks([0.03], [0.02], **arguments)[0]
    from scipy import stats

    def decided(total):
        se, dof = 0.02 * np.sqrt(2 / total), 7.0 * (total - 1)
        return stats.t.isf(0.05 / 6, dof) * se < 0.03 or 0.03 + stats.t.isf(0.05, dof) * se < 0.01

    assert decided(2 + more)
    assert not decided(2 + more - 1)
    assert np.isnan(verdicts.further_blocks([0.01], [0.5], **arguments)[0])
    assert np.isnan(verdicts.further_blocks([0.01], [np.nan], **arguments)[0])


def test_students_t_is_that_of_scipy_stats_without_its_import():
    import subprocess
    import sys

    from scipy import stats

    dof, p, x = np.array([[1.0], [1.7], [7], [1e4]]), np.array([0.6, 0.975, 1 - 1e-9]), np.array([0.0, 2.5, 60])
    np.testing.assert_allclose(student_t.quantile(p, dof), stats.t.ppf(p, dof), rtol=1e-12)
    np.testing.assert_allclose(student_t.upper_tail(x, dof), stats.t.sf(x, dof), rtol=1e-12)
    imports = "import sys, pipeline.analysis.report.report, pipeline.analysis.paper.audit"
    code = f"{imports}; print('scipy.stats' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"
