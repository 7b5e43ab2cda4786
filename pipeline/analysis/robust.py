"""Residuals for error estimates that an outlier in one cell does not carry into all other cells.

In the cell + block model an outlying run shifts its block's effect, and with it the residual of every other run
of the block: with 8 cells an outlier of 7 standard deviations adds nearly one to each of them, and intervals of
cells that are in order come out too wide. Here block effects are M-estimates with Tukey's biweight (Beaton and
Tukey 1974), so a run far from the others hardly moves its block. Cell effects stay least squares, like the
estimates themselves: an outlier counts in full where it belongs, in the error of its own cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.linear import Design, Floats, residuals

BIWEIGHT = 3.44  # 85 % efficiency under normal errors
_NORMAL_MAD = 0.6745
_FULL_LEVERAGE = 1e-9  # 1 - h below this: the observation fits itself exactly and has no residual
_LEAST_WEIGHT = 1e-6
_ITERATIONS = 10


class GroupSums:
    """Sums and medians over the runs of each group, by one sort."""

    def __init__(self, codes: NDArray[np.intp]) -> None:
        """Sorts runs by `codes` (n,), 0 .. g-1, each group with at least one run."""
        self.codes = codes
        self.order = np.argsort(codes, kind="stable")
        self.starts = np.searchsorted(codes[self.order], np.arange(int(codes.max()) + 1))
        self.sizes = np.diff(np.append(self.starts, len(codes)))[:, None]

    def sums(self, values: Floats) -> Floats:
        """Returns (g, s) sums of (n, s) values."""
        return np.asarray(np.add.reduceat(values[self.order], self.starts, axis=0))

    def centre(self, values: Floats) -> Floats:
        """Returns (n, s) values minus their group's mean."""
        return np.asarray(values - (self.sums(values) / self.sizes)[self.codes])

    def medians(self, values: Floats) -> Floats:
        """Returns (g, s) medians of (n, s) values."""
        parts = np.split(values[self.order], self.starts[1:])
        return np.array([np.median(part, axis=0) for part in parts])


def has_residual(design: Design) -> NDArray[np.bool_]:
    """Says which runs (n,) the model does not fit exactly whatever they measured."""
    return np.asarray(design.leverage < 1.0 - _FULL_LEVERAGE)


def robust_residuals(design: Design, y: Floats) -> tuple[Floats, Floats]:
    """Fits least-squares cells and biweight blocks.

    Args:
        design: The layout of the n runs.
        y: (n, s) responses.

    Returns:
        Residuals (n, s) and their slack (n, s): under equal variances the expected square of a residual is
        about slack times the variance. With equal weights both are those of least squares, slack = 1 - h.
    """
    own = has_residual(design)
    spread = np.sqrt(np.where(own, 1.0 - design.leverage, 1.0))[:, None]
    cells, blocks = GroupSums(design.cells), GroupSums(design.blocks)
    r = residuals(design, y)
    if own.any():
        weights, r = _reweighted(cells, blocks, r, spread, own)
    else:
        weights = np.ones_like(r)
    share = weights / np.maximum(blocks.sums(weights), _LEAST_WEIGHT)[blocks.codes]
    size = np.where(blocks.sizes > 1, blocks.sizes, 2)[blocks.codes]
    return r, spread**2 * (1.0 - share) / (1.0 - 1.0 / size)


def _reweighted(
    cells: GroupSums, blocks: GroupSums, r: Floats, spread: Floats, own: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Iterates from block medians: weights (n, s) of the runs in their block's effect, and residuals (n, s)."""
    r = cells.centre(r - blocks.medians(r)[blocks.codes])
    for _ in range(_ITERATIONS):
        size = np.abs(r) / spread
        scale = np.median(size[own], axis=0) / _NORMAL_MAD
        reach = BIWEIGHT * np.where(scale > 0, scale, np.inf)
        weights = np.clip(1.0 - (size / reach) ** 2, 0.0, None) ** 2 * own[:, None]
        step = blocks.sums(weights * r) / np.maximum(blocks.sums(weights), _LEAST_WEIGHT)
        r = cells.centre(r - step[blocks.codes])
    return weights, r
