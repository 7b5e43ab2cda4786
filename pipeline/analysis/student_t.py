"""Student's t from `scipy.special`: the same numbers as `scipy.stats.t`, without the import of all distributions.

`scipy.stats` takes longer to import than a small study takes to analyse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from pipeline.analysis.arrays import Floats


def quantile(probability: ArrayLike, dof: ArrayLike) -> Floats:
    """Give the quantiles of Student's t at probabilities in (0, 1)."""
    return np.asarray(special.stdtrit(dof, probability), dtype=float)


def upper_tail(value: ArrayLike, dof: ArrayLike) -> Floats:
    """Give the probabilities of values above the given ones."""
    return np.asarray(special.stdtr(dof, -np.asarray(value, dtype=float)), dtype=float)
