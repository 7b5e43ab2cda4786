"""Errors without replicates: Lenth's pseudo standard error and the contrasts that it needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.analysis.linear import Floats
from pipeline.analysis.verdicts import ROUNDING


def lenth(orthonormal: Floats, y: Floats) -> tuple[float, float]:
    """Estimates the error from one unreplicated design by Lenth's pseudo standard error.

    Lenth, "Quick and easy analysis of unreplicated factorials", Technometrics 31 (1989): `s0 = 1.5 median
    |c|`, the PSE is 1.5 times the median of the |c| below `2.5 s0`, on `m / 3` degrees of freedom. Contrasts that are
    zero but for rounding compare runs that are the same computation: they know nothing of the error and do not count.

    Args:
        orthonormal: (m, c) contrasts, orthonormal rows, so that each has the error's own standard deviation.
        y: (c,) one response per cell.

    Returns:
        The standard deviation of one observation and its degrees of freedom; NaN for fewer than 3 contrasts that
        are not zero.

    Examples:
        Seven contrasts, one of them large: it does not enter the error.

        >>> sigma, dof = lenth(np.eye(7), np.array([1.0, -2, 3, -4, 5, 6, 40]))
        >>> sigma, round(dof, 4)
        (5.25, 2.3333)
    """
    size = np.abs(orthonormal @ y)
    size = size[size > ROUNDING]
    m = len(size)
    if m < 3:
        return float("nan"), float("nan")
    s0 = 1.5 * float(np.median(size))
    inliers = size[size < 2.5 * s0]
    pse = 1.5 * float(np.median(inliers)) if len(inliers) else s0
    return pse, m / 3.0


def helmert(levels: int) -> Floats:
    """Returns (levels, levels) orthonormal Helmert rows, the first one constant."""
    from scipy.linalg import helmert as scipy_helmert

    rows: Any = scipy_helmert(levels, full=True)
    return np.asarray(rows, dtype=float)


def orthonormal_basis(levels: tuple[int, ...]) -> Floats:
    """Returns (c - 1, c) orthonormal contrasts of a full factorial, cells in lexicographic order of the levels.

    Examples:
        >>> orthonormal_basis((2, 2)).round(3).tolist()
        [[0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, -0.5, 0.5]]
    """
    basis: Floats = np.ones((1, 1))
    for count in levels:
        basis = np.asarray(np.kron(basis, helmert(count)), dtype=float)
    return basis[1:]
