"""The cell and block model against independent paths: statsmodels, dense matrices, the textbook."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import linear, variance
from tests.support.layouts import CELLS, all_contrasts, balanced, unbalanced

SIGNS = np.array([[1 if v == "on" else -1 for v in cell] for cell in CELLS])


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
    by_run = variance.fit_design(design, weights, y[:, None], by_block=False).variance[:, 0]
    white = sm.OLS(y, matrix).fit(cov_type="HC2").cov_params()
    np.testing.assert_allclose(by_run, np.einsum("tc,cd,td->t", padded, white, padded), rtol=1e-10)
    assert fit.pooled[0] == pytest.approx(result.mse_resid, rel=1e-10)
    assert np.isfinite(fit.variance).all()
    assert (fit.variance > 0).all()
    assert ((fit.dof >= 1) & (fit.dof <= design.dof)).all()


@pytest.mark.parametrize("blocks", [3, 6])
def test_pooled_errors_of_complete_data_are_those_of_reml_with_random_blocks(blocks):
    import statsmodels.api as sm

    cells, block, y = balanced(blocks, seed=8)
    _, weights = all_contrasts()
    design = linear.layout(cells, block, 8)
    fit = variance.fit_design(design, weights, y[:, None])
    fitted = sm.MixedLM(y, np.eye(8)[cells], groups=block).fit(reml=True, method="powell")
    assert fitted.converged
    np.testing.assert_allclose(fit.estimate[:, 0], weights @ fitted.fe_params, atol=1e-10)
    expected = np.einsum("tc,cd,td->t", weights, fitted.cov_params()[:8, :8], weights)
    # REML's optimum is found by search, hence the tolerance
    found = fit.pooled[0] * (linear.loadings_of(design, weights) ** 2).sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_contrast_between_unconnected_runs_is_not_estimable():
    design = linear.layout(np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1]), 4)
    weights = np.array([[1.0, -1, 0, 0], [1.0, 0, -1, 0]])
    assert linear.estimable(design, weights).tolist() == [True, False]
