"""Student's t from `scipy.special`: the same numbers as `scipy.stats.t`, without the import of all distributions.

`scipy.stats` takes longer to import than a small study takes to analyse.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from pipeline.analysis.linear import Floats


def quantile(probability: ArrayLike, dof: ArrayLike) -> Floats:
    """Returns quantiles of Student's t.

    Args:
        probability: Probabilities of values below the quantiles, in (0, 1).
        dof: Degrees of freedom, not necessarily whole; broadcast against the probabilities.

    Examples:
        >>> quantile(0.975, [1, 7, 7 / 3]).round(4).tolist()
        [12.7062, 2.3646, 3.7641]
    """
    return np.asarray(special.stdtrit(dof, probability), dtype=float)


def upper_tail(value: ArrayLike, dof: ArrayLike) -> Floats:
    """Returns the probabilities of values above the given ones.

    Args:
        value: Values of a t statistic.
        dof: Degrees of freedom; broadcast against the values.

    Examples:
        >>> upper_tail([0.0, 2.3646], 7).round(4).tolist()
        [0.5, 0.025]
    """
    return np.asarray(special.stdtr(dof, -np.asarray(value, dtype=float)), dtype=float)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Estimates a mean with its two-sided interval by Student's t (Student 1908).

    Args:
        values: (n,) independent values.
        confidence: Probability that the interval holds the mean, in (0, 1).

    Returns:
        The mean and the ends of the interval; both ends are NaN for a single value.

    Raises:
        ValueError: There is no value.

    Examples:
        >>> [round(v, 4) for v in mean_interval([0.98, 1.0, 1.02, 1.04])]
        [1.01, 0.9689, 1.0511]
        >>> mean_interval([2.0])
        (2.0, nan, nan)
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        raise ValueError("no values to take a mean of")
    mean = float(x.mean())
    if n == 1:
        return mean, math.nan, math.nan
    half = float(quantile(0.5 + confidence / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half
