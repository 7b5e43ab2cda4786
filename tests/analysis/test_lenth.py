"""Errors without replicates."""

import numpy as np
import pytest

from pipeline.analysis import lenth


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
