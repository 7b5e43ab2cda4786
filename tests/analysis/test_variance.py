"""Errors of contrasts: what they are in simple cases, and what an outlier does to them."""

import numpy as np
import pytest

from pipeline.analysis import linear, robust, variance
from tests.support.layouts import all_contrasts, balanced


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
