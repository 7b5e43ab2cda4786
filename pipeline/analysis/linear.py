"""Contrasts of cell means with blocks as a factor: estimates, heteroscedasticity-consistent errors, degrees
of freedom.

The model of one (model, dataset) and one response is additive, ``y = cell + block + error``; every effect is
a contrast ``sum_c w_c cell_c`` with weights that sum to zero. Blocks are absorbed by demeaning (Frisch, Waugh
and Lovell), so the cost is linear in the number of runs and quadratic only in the number of cells.

**Which errors, and why.** HC3 (MacKinnon and White 1985) weights each squared residual by ``1 / (1 - h)^2``.
With few blocks the leverages ``h`` are large (0.56 for 8 cells in 2 blocks) and plain HC3 intervals with
residual degrees of freedom are far too wide for main effects (99 % coverage) and too narrow for contrasts of
two cells (92 %). Here the HC3 variance is divided by its exact expectation under equal variances, and its
degrees of freedom are those of the Satterthwaite approximation to the same quadratic form (Bell and McCaffrey
2002; Imbens and Kolesar 2016, eq. 12). Where all leverages are equal, as in a balanced study, this is HC2
with Bell-McCaffrey degrees of freedom. Paired contrasts within blocks (one t test over blocks) would be exact
under any inequality of variances between cells, but leave one
degree of freedom for two blocks: an interval three times as wide. ``docs/analysis.md`` has the measured
coverage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_FULL_LEVERAGE = 1e-9  # 1 - h below this: the observation fits itself exactly and has no residual


@dataclass(frozen=True)
class Design:
    """The layout of n runs over c cells and b blocks, with what every contrast needs of it.

    Attributes:
        cells: (n,) cell index of each run.
        blocks: (n,) block index of each run.
        sizes: (b,) runs per block.
        centred: (n, c) cell indicators minus their block means.
        inverse: (c, c) pseudo-inverse of ``centred' centred``.
        leverage: (n,) diagonal of the hat matrix of the cell + block model.
        dof: Residual degrees of freedom, n - rank.
    """

    cells: Ints
    blocks: Ints
    sizes: Floats
    centred: Floats
    inverse: Floats
    leverage: Floats
    dof: int


@dataclass(frozen=True)
class Fit:
    """Estimates of t contrasts on s response vectors.

    Attributes:
        estimate: (t, s) on the scale of the response.
        variance: (t, s) of the estimates; NaN without residual degrees of freedom.
        dof: (t,) Satterthwaite degrees of freedom of the variances.
    """

    estimate: Floats
    variance: Floats
    dof: Floats


def layout(cells: Ints, blocks: Ints, n_cells: int) -> Design:
    """Build the design of runs.

    Args:
        cells: (n,) cell index of each run, below ``n_cells``; a cell may have no run.
        blocks: (n,) block index of each run, 0 .. b-1, each block with at least one run.
        n_cells: c.

    Returns:
        The design.
    """
    n, b = len(cells), int(blocks.max()) + 1
    indicator = np.zeros((n, n_cells))
    indicator[np.arange(n), cells] = 1.0
    sizes = np.bincount(blocks, minlength=b).astype(float)
    means = np.zeros((b, n_cells))
    np.add.at(means, blocks, indicator)
    centred = indicator - (means / sizes[:, None])[blocks]
    inverse = np.linalg.pinv(centred.T @ centred, rcond=1e-10, hermitian=True)
    rank = b + int(np.linalg.matrix_rank(centred.T @ centred, tol=1e-8, hermitian=True))
    leverage = 1.0 / sizes[blocks] + np.einsum("nc,cd,nd->n", centred, inverse, centred)
    return Design(cells, blocks, sizes, centred, inverse, leverage, n - rank)


def estimable(design: Design, weights: Floats) -> NDArray[np.bool_]:
    """Say which contrasts (t, c) the runs determine: those in the row space of the centred indicators."""
    gram = design.centred.T @ design.centred
    return np.asarray(np.abs(weights - weights @ design.inverse @ gram).max(axis=1) < 1e-8)


def residuals(design: Design, y: Floats) -> Floats:
    """Return (n, s) residuals of responses (n, s) from the cell + block model."""
    block_sums = np.zeros((len(design.sizes), y.shape[1]))
    np.add.at(block_sums, design.blocks, y)
    centred_y = y - (block_sums / design.sizes[:, None])[design.blocks]
    return np.asarray(centred_y - design.centred @ (design.inverse @ (design.centred.T @ y)))


def _square_trace(design: Design, q: Floats) -> Floats:
    """Return (t,) ``sum_ij q_i q_j M_ij^2`` for kernels q (n, t), M the residual maker, without forming M.

    ``M_ij = [i = j] - [same block] / size - P_ij`` with ``P = centred inverse centred'``; the square is
    expanded so that each term is a sum over runs or over blocks.
    """
    p_diag = np.einsum("nc,cd,nd->n", design.centred, design.inverse, design.centred)
    size = design.sizes[design.blocks]
    total: Floats = np.einsum("nt,n->t", q**2, 1.0 - 2.0 / size - 2.0 * p_diag)
    sums = np.zeros((len(design.sizes), q.shape[1]))
    np.add.at(sums, design.blocks, q)
    total += ((sums / design.sizes[:, None]) ** 2).sum(axis=0)
    for t in range(q.shape[1]):
        weighted = design.centred * q[:, t : t + 1]
        inner = design.inverse @ (design.centred.T @ weighted)
        total[t] += float(np.sum(inner * inner.T))
        by_block = np.zeros((len(design.sizes), design.centred.shape[1]))
        np.add.at(by_block, design.blocks, weighted)
        total[t] += 2.0 * float(np.einsum("bc,cd,bd,b->", by_block, design.inverse, by_block, 1.0 / design.sizes))
    return total


def fit(design: Design, weights: Floats, y: Floats) -> Fit:
    """Estimate contrasts with calibrated HC3 variances (see the module's docstring).

    An observation with leverage 1 (the only run of its cell) has no residual of its own; its share of the
    variance is taken from the pooled residual variance.

    Args:
        design: The layout of the n runs.
        weights: (t, c) contrast weights, each row summing to zero and estimable.
        y: (n, s) responses; s > 1 analyses many data sets of one layout at once.

    Returns:
        Estimates (t, s), variances (t, s), degrees of freedom (t,).
    """
    loads = design.centred @ design.inverse @ weights.T  # (n, t): estimate = loads' y
    estimate = loads.T @ y
    if design.dof < 1:
        return Fit(estimate, np.full_like(estimate, np.nan), np.full(len(weights), np.nan))
    slack = 1.0 - design.leverage
    own = slack > _FULL_LEVERAGE
    slack = np.where(own, slack, 1.0)
    hc3 = np.where(own[:, None], loads**2 / slack[:, None] ** 2, 0.0)
    expected = hc3.T @ slack  # HC3 variance under unit, equal error variances
    exact = np.where(own[:, None], loads**2, 0.0).sum(axis=0)
    kernel = hc3 * np.divide(exact, expected, out=np.zeros_like(exact), where=expected > 0)
    borrowed = np.where(own[:, None], 0.0, loads**2).sum(axis=0) / design.dof
    e2 = residuals(design, y) ** 2
    variance = kernel.T @ e2 + borrowed[:, None] * e2.sum(axis=0)
    trace = kernel.T @ slack
    square = _square_trace(design, kernel) + 2 * borrowed * trace + borrowed**2 * design.dof
    total = trace + borrowed * design.dof
    dof = np.divide(total**2, square, out=np.full_like(total, float(design.dof)), where=square > 0)
    return Fit(estimate, variance, np.clip(dof, 1.0, design.dof))


def lenth(orthonormal: Floats, y: Floats) -> tuple[float, float]:
    """Estimate the error from one unreplicated design by Lenth's pseudo standard error.

    Lenth, "Quick and easy analysis of unreplicated factorials", Technometrics 31 (1989): ``s0 = 1.5 median
    |c|``, the PSE is 1.5 times the median of the |c| below ``2.5 s0``, on ``m / 3`` degrees of freedom.

    Args:
        orthonormal: (m, c) contrasts, orthonormal rows, so that each has the error's own standard deviation.
        y: (c,) one response per cell.

    Returns:
        The standard deviation of one observation and its degrees of freedom; NaN for fewer than 3 contrasts.
    """
    m = len(orthonormal)
    if m < 3:
        return float("nan"), float("nan")
    size = np.abs(orthonormal @ y)
    s0 = 1.5 * float(np.median(size))
    inliers = size[size < 2.5 * s0]
    pse = 1.5 * float(np.median(inliers)) if len(inliers) else s0
    return pse, m / 3.0


def helmert(levels: int) -> Floats:
    """Return (levels, levels) orthonormal Helmert rows, the first one constant."""
    from scipy.linalg import helmert as scipy_helmert

    rows: Any = scipy_helmert(levels, full=True)
    return np.asarray(rows, dtype=float)


def orthonormal_basis(levels: tuple[int, ...]) -> Floats:
    """Return the (c - 1, c) orthonormal contrasts of a full factorial, cells in lexicographic order of the
    levels.
    """
    basis: Floats = np.ones((1, 1))
    for count in levels:
        basis = np.asarray(np.kron(basis, helmert(count)), dtype=float)
    return basis[1:]
