"""Errors of contrasts of cell means with blocks as a factor: variances and degrees of freedom.

**Which errors, and why.** A contrast averages over many cells (a main effect) or leans on a few (a technique
alone against the baseline), and each needs another compromise. The variance is a mixture of two estimators,
both unbiased if all cells scatter alike:

- each cell's own variance, weighted by its share in the contrast (in a balanced study this is HC2 of MacKinnon
  and White 1985). Many degrees of freedom; too small where the contrast's own cells scatter more than the rest,
  so half of that bias is undone. Residuals come from `robust.py`: an outlier in another cell does not widen
  the interval.
- the paired variance: that of the contrast's values in each block, as in a t test over blocks; in general the
  cluster-robust variance with blocks as clusters. Exact whatever the cells' variances, but on blocks - 1
  degrees of freedom: alone it makes intervals of two blocks more than twice as wide.

The paired share is `(blocks - 1) / (blocks + 1)` of the contrast's *concentration*, the largest share that one
cell has in its variance if all cells scatter alike: 1/8 for the main effects of 8 cells, 1/2 for a cell against
the baseline. Degrees of freedom are Satterthwaite's (Bell and McCaffrey 2002; Imbens and Kolesar 2016, eq. 12),
but not under equal variances: each cell's variance is its own estimate with the concentration as weight, and the
mean of all cells otherwise. The two weights, the half correction and the biweight's constant were chosen on simulated
studies, so that intervals keep their coverage whether cells scatter alike, one scatters twice as much as the
rest, or runs are outliers; `docs/analysis.md` has the measured coverage.

Shapes: n runs, c cells, b blocks, t contrasts, s response vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.analysis.linear import Design, Floats, loadings_of, residuals
from pipeline.analysis.robust import GroupSums, has_residual, robust_residuals

BIAS_CORRECTION = 0.5  # of the way from a cell's mean square to its unbiased variance
_LEAST_OWN = 0.5  # of the mean square: the correction never takes more
_LEAST_PAIRED = 0.1  # of the contrast's variance, kept between blocks: below it there is nothing to pair


@dataclass(frozen=True)
class Fit:
    """Estimates of t contrasts on s response vectors.

    Attributes:
        estimate: (t, s) on the scale of the response.
        variance: (t, s) of the estimates; NaN without residual degrees of freedom.
        dof: (t, s) Satterthwaite degrees of freedom of the variances.
    """

    estimate: Floats
    variance: Floats
    dof: Floats


class Estimator:
    """What t contrasts need of a layout, computed once for all responses measured on it."""

    def __init__(self, design: Design, weights: Floats) -> None:
        """Prepares contrasts.

        Args:
            design: The layout of the n runs.
            weights: (t, c) contrast weights, each row summing to zero and estimable.
        """
        self.design, self.loadings = design, loadings_of(design, weights)
        if design.dof < 1:
            return
        self.cells, self.blocks = GroupSums(design.cells), GroupSums(design.blocks)
        self.has_residual = has_residual(design)[:, None]
        self.share = cell_shares(design, self.loadings)
        self.direction = np.sign(weights) * np.sqrt(self.share)
        self.concentration = self.share.max(axis=1)
        self.share_between_blocks = share_between_blocks(design, self.loadings)
        b = len(design.sizes)
        self.paired_share = np.where(
            self.share_between_blocks >= _LEAST_PAIRED, (b - 1) / (b + 1) * self.concentration, 0.0
        )
        self.equal_dof = _equal_dof(design, self.loadings)

    def fit(self, y: Floats) -> Fit:
        """Estimates the contrasts with their errors (see the module's docstring).

        An observation with leverage 1 (the only run of its cell) has no residual of its own; its share of the
        variance is taken from the pooled residual variance.

        Args:
            y: (n, s) responses; s > 1 analyses many data sets of one layout at once.

        Returns:
            The estimates and their errors.
        """
        estimate = self.loadings.T @ y
        if self.design.dof < 1:
            return Fit(estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan))
        e = residuals(self.design, y)
        cell_variance = self._cell_variance(e, *robust_residuals(self.design, y))
        hc_variance = self.share @ cell_variance * (self.loadings**2).sum(axis=0)[:, None]
        paired = self.paired_share[:, None]
        variance = (
            paired * paired_variance(self.design, self.loadings, e, self.share_between_blocks)
            + (1.0 - paired) * hc_variance
        )
        dof = self.equal_dof[:, None] * self._dof_ratio(cell_variance)
        return Fit(estimate, variance, np.clip(dof, 1.0, self.design.dof))

    def _cell_variance(self, e: Floats, r: Floats, slack: Floats) -> Floats:
        """Returns each cell's own variance (c, s) from robust residuals r and slack (n, s).

        The mean square of a cell over its slack is unbiased if all cells scatter alike; otherwise the block
        effects have mixed the mean of all cells into it, `h_i = ((c - 2) v_i + mean(v)) / (c - 1)`. Half of
        this bias (Grubbs 1948) is taken out: the whole correction may end below zero.
        """
        pooled = (e**2).sum(axis=0) / self.design.dof
        square = np.where(self.has_residual, r**2 / np.where(self.has_residual, slack, 1.0), pooled)
        mean = np.asarray(self.cells.sums(square) / self.cells.sizes)
        return np.asarray(
            np.maximum(mean + _bias_correction(len(mean)) * (mean - mean.mean(axis=0)), _LEAST_OWN * mean)
        )

    def _dof_ratio(self, cell_variance: Floats) -> Floats:
        """Returns (t, s): Satterthwaite's degrees of freedom of the mixture, over those of HC2 with equal variances.

        Per block the residuals of the c cells have covariance `C diag(v) C`, C centring; blocks alike.
        Unbalanced studies take this ratio from the balanced layout of the same cells.

        Args:
            cell_variance: (c, s) each cell's own variance.
        """
        c, correction = self.share.shape[1], _bias_correction(self.share.shape[1])
        hc = (1.0 - self.paired_share)[:, None] * (self.share * (1.0 + correction) - correction / c) * c / (c - 1)
        mean = cell_variance.mean(axis=0)
        relative = np.divide(cell_variance, mean, out=np.ones_like(cell_variance), where=mean > 0)
        v = self.concentration[:, None, None] * relative + (1.0 - self.concentration)[:, None, None]
        return _freedom(self.direction, self.paired_share, hc, v) / _freedom_equal(self.share)[:, None]


def fit_design(design: Design, weights: Floats, y: Floats) -> Fit:
    """Estimates contrasts of responses once: see `Estimator`.

    Args:
        design: The layout of the n runs.
        weights: (t, c) contrast weights.
        y: (n, s) responses.

    Examples:
        Two cells in three blocks: the paired t test of their differences 2, 3 and 4.

        >>> from pipeline.analysis.linear import layout
        >>> design = layout(cells=np.array([0, 1] * 3), blocks=np.array([0, 0, 1, 1, 2, 2]), n_cells=2)
        >>> fit = fit_design(design, np.array([[-1.0, 1.0]]), np.array([[5.0, 7, 1, 4, 2, 6]]).T)
        >>> fit.estimate.round(4).item(), fit.variance.round(4).item(), fit.dof.round(4).item()
        (3.0, 0.3333, 2.0)
    """
    return Estimator(design, weights).fit(y)


def cell_shares(design: Design, loadings: Floats) -> Floats:
    """Returns (t, c): each cell's share in the variance of contrasts with loadings (n, t), all cells alike."""
    shares = GroupSums(design.cells).sums(loadings**2)
    return np.asarray((shares / shares.sum(axis=0)).T)


def share_between_blocks(design: Design, loadings: Floats) -> Floats:
    """Returns (t,): the share of the variance of contrasts (loadings (n, t)) that residuals keep between blocks."""
    blocks = GroupSums(design.blocks)
    per_block = blocks.sums((loadings[:, :, None] * design.centred[:, None, :]).reshape(len(loadings), -1))
    per_block = per_block.reshape(len(design.sizes), loadings.shape[1], -1)  # (b, t, c)
    kept = blocks.sums(loadings**2) - blocks.sums(loadings) ** 2 / design.sizes[:, None]
    within = kept.sum(axis=0) - np.einsum("btc,btc->t", per_block @ design.inverse, per_block)
    return np.asarray(np.clip(within / (loadings**2).sum(axis=0), 0.0, 1.0))


def paired_variance(design: Design, loadings: Floats, e: Floats, share: Floats) -> Floats:
    """Returns the variance (t, s) between blocks, divided by its expectation under equal variances.

    In a balanced study it is the variance of a t test over the blocks' values of the contrast.

    Args:
        design: The layout of the n runs.
        loadings: (n, t) coefficients of the runs in the contrasts.
        e: (n, s) least-squares residuals.
        share: (t,) the share of the variance that residuals keep, from `share_between_blocks`.
    """
    blocks = GroupSums(design.blocks)
    ends = np.append(blocks.starts, len(blocks.order))
    total = np.zeros((loadings.shape[1], e.shape[1]))
    for first, last in pairwise(ends):
        rows = blocks.order[first:last]
        total += (loadings[rows].T @ e[rows]) ** 2
    return np.asarray(total / np.maximum(share, _LEAST_PAIRED)[:, None])


def _bias_correction(c: int) -> float:
    """Returns the share of a cell's distance from the mean of the c cells that corrects its mean square."""
    return BIAS_CORRECTION / (c - 2) if c > 2 else 0.0


def _freedom_equal(share: Floats) -> Floats:
    """Returns (t,), per block: HC2's degrees of freedom under equal variances."""
    c = share.shape[1]
    square = share**2
    cross = (1.0 - 2.0 / c) * square.sum(axis=1) + share.sum(axis=1) ** 2 / c**2
    return np.asarray(((1.0 - 1.0 / c) * share.sum(axis=1)) ** 2 / cross)


def _freedom(w: Floats, paired_share: Floats, hc: Floats, v: Floats) -> Floats:
    """Returns (t, s), per block: Satterthwaite's degrees of freedom of the mixture.

    They are `tr(B S)^2 / tr(B S B S)` with `B = paired_share w w' + diag(hc)` and `S = C diag(v) C`.
    `S_ij = [i = j] v_i - (v_i + v_j - mean(v)) / c` is never formed: all sums are over cells.

    Args:
        w: (t, c) directions.
        paired_share: (t,) shares of the paired variance.
        hc: (t, c) the diagonal part, that of the cells' own variances.
        v: (t, c, s) variances of the cells, relative to their mean.
    """
    c = w.shape[1]
    mean = v.mean(axis=1, keepdims=True)
    u = v - mean / 2
    diagonal = v - 2.0 * u / c
    sums = w.sum(axis=1)[:, None, None]
    along = w[:, :, None] * v - (sums * u + np.einsum("tc,tcs->ts", w, u)[:, None]) / c  # S w
    m, d = paired_share[:, None], hc[:, :, None]
    quadratic = np.einsum("tc,tcs->ts", w, along)
    trace = m * quadratic + (d * diagonal).sum(axis=1)
    # sum_ij d_i d_j S_ij^2: as if all were off the diagonal, (u_i + u_j)^2 / c^2, then the diagonal put right
    everywhere = 2.0 * (d.sum(axis=1) * (d * u**2).sum(axis=1) + (d * u).sum(axis=1) ** 2) / c**2
    right = (d**2 * (diagonal**2 - (2.0 * u / c) ** 2)).sum(axis=1)
    square = m**2 * quadratic**2 + 2.0 * m * (d * along**2).sum(axis=1) + everywhere + right
    return np.asarray(trace**2 / square)


def _equal_dof(design: Design, loadings: Floats) -> Floats:
    """Returns (t,) exact Satterthwaite degrees of freedom of HC2 under equal variances (Bell and McCaffrey)."""
    own = has_residual(design)
    slack = np.where(own, 1.0 - design.leverage, 1.0)
    kernel = np.where(own[:, None], loadings**2 / slack[:, None], 0.0)
    borrowed = np.where(own[:, None], 0.0, loadings**2).sum(axis=0) / design.dof
    trace = kernel.T @ slack
    square = _square_trace(design, kernel) + 2 * borrowed * trace + borrowed**2 * design.dof
    total = trace + borrowed * design.dof
    return np.asarray(np.divide(total**2, square, out=np.full_like(total, float(design.dof)), where=square > 0))


def _square_trace(design: Design, q: Floats) -> Floats:
    """Returns (t,) `sum_ij q_i q_j M_ij^2` for kernels q (n, t), M the residual maker, without forming M.

    `M_ij = [i = j] - [same block] / size - P_ij` with `P = centred inverse centred'`; the square is
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
