"""Student's t against scipy.stats."""

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis import student_t


def test_students_t_is_that_of_scipy_stats():
    dof, p, x = np.array([[1.0], [1.7], [7], [1e4]]), np.array([0.6, 0.975, 1 - 1e-9]), np.array([0.0, 2.5, 60])
    np.testing.assert_allclose(student_t.quantile(p, dof), stats.t.ppf(p, dof), rtol=1e-12)
    np.testing.assert_allclose(student_t.upper_tail(x, dof), stats.t.sf(x, dof), rtol=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 30])
def test_the_interval_of_a_mean_is_that_of_scipy_stats(n, confidence):
    x = np.random.default_rng(n).normal(5, 2, n)
    mean, low, high = student_t.mean_interval(x, confidence)
    assert mean == pytest.approx(x.mean())
    assert (low, high) == pytest.approx(stats.t.interval(confidence, n - 1, x.mean(), stats.sem(x)))


def test_one_value_has_no_interval_and_none_has_no_mean():
    mean, low, high = student_t.mean_interval([3.0])
    assert mean == 3.0 and np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="no values"):
        student_t.mean_interval([])
