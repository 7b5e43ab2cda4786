"""Residuals that an outlier does not carry into other cells."""

import numpy as np

from pipeline.analysis import linear, robust
from tests.support.layouts import balanced


def test_without_noise_the_robust_fit_finds_nothing():
    cells, block, _ = balanced(3)
    design = linear.layout(cells, block, 8)
    r, slack = robust.robust_residuals(design, (2.0 * cells + block)[:, None])
    assert np.abs(r).max() < 1e-9
    assert (slack > 0).all()
