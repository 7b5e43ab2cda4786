"""Errors of contrasts against dense matrices, statsmodels and the textbook; what does not depend on what."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import linear, variance
from tests.support.layouts import all_contrasts, balanced, unbalanced

WEIGHTS = all_contrasts()[1]


def dense(cells, blocks, weights):
    """Loadings (n, t) and residual maker (n, n) from the pseudo-inverse of the whole model matrix."""
    n = len(cells)
    model = np.zeros((n, 9 + blocks.max()))
    model[np.arange(n), cells] = model[np.arange(n), 8 + blocks] = 1.0
    inverse = np.linalg.pinv(model)
    return (weights @ inverse[:8]).T, np.eye(n) - model @ inverse


def form(loading, maker, blocks, by_block, dof):
    """The matrix A of one contrast's variance `e' A e`."""
    a = np.zeros_like(maker)
    borrowed = 0.0
    for k in np.unique(blocks):
        rows = np.flatnonzero(blocks == k) if by_block else None
        for part in [rows] if by_block else [[i] for i in np.flatnonzero(blocks == k)]:
            values, vectors = np.linalg.eigh(maker[np.ix_(part, part)])
            seen = values > 1e-9
            root = vectors[:, seen] / np.sqrt(values[seen]) @ vectors[:, seen].T
            a[np.ix_(part, part)] += np.outer(root @ loading[part], root @ loading[part])
            borrowed += loading[part] @ loading[part] - np.square(vectors[:, seen].T @ loading[part]).sum()
    return a + borrowed / dof * np.eye(len(a))


@pytest.mark.parametrize("by_block", [True, False])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), blocks=st.integers(2, 6), missing=st.sampled_from([0.0, 0.15, 0.3]))
def test_equals_the_dense_definition_and_is_unbiased(by_block, seed, blocks, missing):
    """`tr(A M) = l' l`: exact expectation under independent errors of one variance, whatever is missing."""
    rng = np.random.default_rng(seed)
    cells, block = np.tile(np.arange(8), blocks), np.repeat(np.arange(blocks), 8)
    keep = rng.random(len(cells)) >= missing
    keep[:8] = True
    cells, block = cells[keep], np.unique(block[keep], return_inverse=True)[1]
    design = linear.layout(cells, block, 8)
    if design.dof < 1:
        return
    weights = WEIGHTS[linear.estimable(design, WEIGHTS)]
    y = rng.normal(size=(len(cells), 2))
    fit = variance.fit_design(design, weights, y, by_block=by_block)
    loadings, maker = dense(cells, block, weights)
    e = maker @ y
    for t in range(len(weights)):
        a = form(loadings[:, t], maker, block, by_block, design.dof)
        assert np.trace(a @ maker) == pytest.approx(loadings[:, t] @ loadings[:, t], rel=1e-9)
        assert fit.variance[t] == pytest.approx(np.einsum("is,ij,js->s", e, a, e), rel=1e-9, abs=1e-12)
        expected = np.trace(a @ maker) ** 2 / np.trace(a @ maker @ a @ maker)
        assert fit.dof[t] == pytest.approx(np.clip(expected, 1, design.dof), rel=1e-8)


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_complete_blocks_give_the_paired_t_test(blocks):
    from scipy import stats

    cells, block, y = balanced(blocks)
    fit = variance.fit_design(linear.layout(cells, block, 8), WEIGHTS, y[:, None])
    for t, weights in enumerate(WEIGHTS):
        expected = stats.ttest_1samp(y.reshape(blocks, 8) @ weights, 0.0)
        assert fit.estimate[t, 0] / np.sqrt(fit.variance[t, 0]) == pytest.approx(expected.statistic, rel=1e-10)
        assert fit.dof[t] == pytest.approx(blocks - 1, rel=1e-10)


def test_by_run_is_statsmodels_hc2():
    import statsmodels.api as sm

    cells, block, y = unbalanced(3, blocks=4)
    design = linear.layout(cells, block, 8)
    model = np.zeros((len(y), 8 + block.max()))
    model[np.arange(len(y)), cells] = 1.0
    later = block > 0
    model[np.flatnonzero(later), 7 + block[later]] = 1.0
    fitted = sm.OLS(y, model).fit(cov_type="HC2")
    assert design.leverage.max() < 1 - 1e-9
    fit = variance.fit_design(design, WEIGHTS, y[:, None], by_block=False)
    wide = np.pad(WEIGHTS, ((0, 0), (0, model.shape[1] - 8)))
    assert fit.variance[:, 0] == pytest.approx(np.einsum("tc,cd,td->t", wide, fitted.cov_params(), wide), rel=1e-10)


@pytest.mark.parametrize("by_block", [True, False])
def test_the_order_of_runs_and_the_blocks_levels_change_nothing(by_block):
    cells, block, y = unbalanced(1, blocks=5)
    order = np.random.default_rng(2).permutation(len(y))
    fits = [
        variance.fit_design(linear.layout(c, b, 8), WEIGHTS, v[:, None], by_block=by_block)
        for c, b, v in ((cells, block, y), (cells[order], block[order], y[order]), (cells, block, y + 7.0 * block))
    ]
    for other in fits[1:]:
        assert other.variance == pytest.approx(fits[0].variance, rel=1e-9)
        assert other.dof == pytest.approx(fits[0].dof, rel=1e-9)


@pytest.mark.parametrize("cells_in_study", [2, 3, 4, 8])
@pytest.mark.parametrize("blocks", [2, 3, 4, 7])
@pytest.mark.parametrize("by_block", [True, False])
def test_complete_data_always_has_a_finite_error(cells_in_study, blocks, by_block):
    c = cells_in_study
    design = linear.layout(np.tile(np.arange(c), blocks), np.repeat(np.arange(blocks), c), c)
    weights = np.eye(c)[1:] - np.eye(c)[0]
    y = np.random.default_rng(c).standard_t(2, size=(len(design.cells), 200))
    fit = variance.fit_design(design, weights, y, by_block=by_block)
    assert np.isfinite(fit.variance).all() and (fit.variance > 0).all()
    assert ((fit.dof >= 1) & (fit.dof <= design.dof)).all()


def test_errors_by_block_hold_what_runs_of_a_block_share():
    """Copies of a run are no replicates: errors by block stay as they are, those by run shrink."""
    cells, block = np.tile(np.arange(8), 6), np.repeat(np.arange(6), 8)
    y = np.random.default_rng(5).normal(size=(6, 8, 300))
    y[:, 4:] = y[:, :4]  # the last technique changes no bit
    design = linear.layout(cells, block, 8)
    weights = np.array([[-1, 1, -1, 1, -1, 1, -1, 1.0]]) / 4
    half = linear.layout(np.tile(np.arange(4), 6), np.repeat(np.arange(6), 4), 4)
    alone = variance.fit_design(half, weights[:, :4] * 2, y[:, :4].reshape(24, 300))
    with_copies, by_run = (variance.fit_design(design, weights, y.reshape(48, 300), by_block=b) for b in (True, False))
    assert with_copies.variance == pytest.approx(alone.variance, rel=1e-10)
    assert by_run.variance.mean() < 0.7 * alone.variance.mean()
