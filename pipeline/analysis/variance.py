"""Errors of contrasts of cell means with blocks as a factor: published sandwich estimators for small samples.

- **By block, CR2**: blocks are clusters, so whatever happens to the runs of one block together (a machine, a driver,
  a technique that acts more in one block than in another, runs that are copies of each other) is in the error.
  Bias-reduced linearization of Bell and McCaffrey (Survey Methodology 28, 2002), in the form of Pustejovsky and Tipton
  (JBES 36, 2018) for absorbed fixed effects. With complete blocks it is the t test over the blocks' contrast values.
- **By run, HC2** (MacKinnon and White, J. Econometrics 29, 1985): runs are independent given cell and block, hence
  techniques act alike in all blocks. For two or three blocks, where a t test over blocks is up to four times as wide.

Degrees of freedom are Bell and McCaffrey's: Satterthwaite's under independent errors of one variance (Imbens and
Kolesar, REStat 98, 2016, eq. 12). A part of a contrast that the data fit exactly (the only run of a cell) has no
residual: its variance is borrowed from the pooled one, which keeps both estimators unbiased under that working model.

Shapes: n runs, c cells, b blocks, t contrasts, s response vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.linear import Design, Floats, Ints, loadings_of, residuals

BLOCKS_FOR_CR2 = 4  # of times; below, an interval by block is 1.8 to 4 times as wide as one by run
_NULL = 1e-9  # eigenvalues of a projection below this are zero: the observation fits itself exactly


@dataclass(frozen=True)
class Fit:
    """Estimates of t contrasts on s response vectors.

    Attributes:
        estimate: (t, s) on the scale of the response.
        variance: (t, s) of the estimates; NaN without residual degrees of freedom.
        dof: (t,) degrees of freedom of the variances; NaN without.
        pooled: (s,) the residual variance; NaN without.
        scores: (t, b, s) parts by block, whose squares add up to the variance but for what is borrowed; None by run.
    """

    estimate: Floats
    variance: Floats
    dof: Floats
    pooled: Floats
    scores: Floats | None = None


class Estimator:
    """What t contrasts need of a layout, computed once for all responses measured on it."""

    def __init__(self, design: Design, weights: Floats) -> None:
        """Prepares contrasts.

        Args:
            design: The layout of the n runs.
            weights: (t, c) contrast weights, each row summing to zero and estimable.
        """
        self.design, self.loadings = design, loadings_of(design, weights)

    def fit(self, y: Floats, *, by_block: bool) -> Fit:
        """Estimates the contrasts with their errors.

        Args:
            y: (n, s) responses; s > 1 analyses many data sets of one layout at once.
            by_block: Errors by block (CR2); else by run (HC2).

        Returns:
            The estimates and their errors.
        """
        estimate = self.loadings.T @ y
        if self.design.dof < 1:
            nothing = np.full_like(estimate, np.nan)
            return Fit(estimate, nothing, np.full(len(estimate), np.nan), np.full(y.shape[1], np.nan))
        e = residuals(self.design, y)
        pooled = (e**2).sum(axis=0) / self.design.dof
        if by_block:
            adjusted, borrowed, _ = self._by_block
            scores = np.stack([a.T @ e[rows] for rows, a in adjusted], axis=1)
            variance = (scores**2).sum(axis=1)
        else:
            kernel, borrowed, _ = self._by_run
            scores, variance = None, kernel.T @ e**2
        return Fit(estimate, variance + borrowed[:, None] * pooled, self._freedom(by_block), pooled, scores)

    @cached_property
    def _by_block(self) -> tuple[list[tuple[Ints, Floats]], Floats, Floats]:
        """Per block k its rows and `a_k = M_kk^(-1/2) l_k` (n_k, t); borrowed shares (t,); `a_k' M_kj a_j` (t, b, b).

        `M` is the residual maker `I - H` of the model. Both roots are symmetric, so that the residuals' own
        covariance cancels in the expectation: `E (a_k' e_k)^2 = l_k' l_k` under independent errors of one variance.
        """
        t, b = self.loadings.shape[1], len(self.design.sizes)
        adjusted, borrowed, own = [], np.zeros(t), np.zeros((t, b))
        through = np.zeros((t, b, self.design.inverse.shape[0]))
        for k in range(b):
            rows = np.flatnonzero(self.design.blocks == k)
            x, load = self.design.centred[rows], self.loadings[rows]
            centring = np.eye(len(rows)) - 1.0 / len(rows)
            values, vectors = np.linalg.eigh(centring - x @ self.design.inverse @ x.T)
            seen = values > _NULL
            along = vectors.T @ load
            a = vectors[:, seen] @ (along[seen] / np.sqrt(values[seen])[:, None])
            borrowed += (along[~seen] ** 2).sum(axis=0)
            own[:, k] = ((centring @ a) * a).sum(axis=0)
            through[:, k] = a.T @ x
            adjusted.append((rows, a))
        gram = own[:, :, None] * np.eye(b) - through @ self.design.inverse @ through.transpose(0, 2, 1)
        return adjusted, borrowed, gram

    @cached_property
    def _by_run(self) -> tuple[Floats, Floats, Floats]:
        """The kernel `l_i^2 / (1 - h_i)` (n, t); borrowed shares (t,); `tr(K M K M)` (t,) of the kernel."""
        d = self.design
        square, slack = self.loadings**2, 1.0 - d.leverage
        seen = (slack > _NULL)[:, None]
        kernel = np.where(seen, square / np.where(seen, slack[:, None], 1.0), 0.0)
        same = d.blocks[:, None] == d.blocks
        maker = np.eye(len(slack)) - same / d.sizes[d.blocks] - d.centred @ d.inverse @ d.centred.T
        return kernel, np.where(seen, 0.0, square).sum(axis=0), ((maker**2 @ kernel) * kernel).sum(axis=0)

    def _freedom(self, by_block: bool) -> Floats:
        """Returns (t,) Bell-McCaffrey degrees of freedom."""
        if by_block:
            _, borrowed, gram = self._by_block
            trace, square = gram.trace(axis1=1, axis2=2), (gram**2).sum(axis=(1, 2))
        else:
            kernel, borrowed, square = self._by_run
            trace = kernel.T @ (1.0 - self.design.leverage)
        return freedom(trace, square, borrowed, self.design.dof)

    @property
    def gram(self) -> Floats:
        """(t, b, b): covariances of the scores by block under independent errors of variance 1."""
        return self._by_block[2]

    @property
    def borrowed(self) -> Floats:
        """(t,): the part of the variances by block, over the error's, that is borrowed from the pooled one."""
        return self._by_block[1]


def freedom(trace: Floats, square: Floats, borrowed: Floats, dof: float) -> Floats:
    """Returns Satterthwaite's degrees of freedom of `e' A e`, within [1, dof].

    Args:
        trace: `tr(A M)` of the part of A with residuals of its own.
        square: `tr(A M A M)` of that part.
        borrowed: The weight of the pooled variance `e' e / dof` that is added to it.
        dof: The residual degrees of freedom.
    """
    total = square + 2.0 * borrowed * trace / dof + borrowed**2 / dof
    found = np.divide((trace + borrowed) ** 2, total, out=np.full_like(total, float(dof)), where=total > 0)
    return np.asarray(np.clip(found, 1.0, dof))


def fit_design(design: Design, weights: Floats, y: Floats, *, by_block: bool = True) -> Fit:
    """Estimates contrasts of responses once: see `Estimator`.

    Args:
        design: The layout of the n runs.
        weights: (t, c) contrast weights.
        y: (n, s) responses.
        by_block: Errors by block (CR2); else by run (HC2).

    Examples:
        Two cells in three blocks: the paired t test of their differences 2, 3 and 4. Two cells have no other errors,
        so both estimators agree.

        >>> from pipeline.analysis.linear import layout
        >>> design = layout(cells=np.array([0, 1] * 3), blocks=np.array([0, 0, 1, 1, 2, 2]), n_cells=2)
        >>> y = np.array([[5.0, 7, 1, 4, 2, 6]]).T
        >>> for by_block in (True, False):
        ...     fit = fit_design(design, np.array([[-1.0, 1.0]]), y, by_block=by_block)
        ...     fit.estimate.round(4).item(), fit.variance.round(4).item(), fit.dof.round(4).item()
        (3.0, 0.3333, 2.0)
        (3.0, 0.3333, 2.0)
    """
    return Estimator(design, weights).fit(y, by_block=by_block)
