"""The additive model of one (model, dataset) and one response, `y = cell + block + error`: its design and fit.

Every effect is a contrast `sum_c w_c cell_c` with weights that sum to zero. Blocks are absorbed by demeaning
(Frisch, Waugh and Lovell), so the cost is linear in the number of runs and quadratic only in the number of
cells. `variance.py` has the errors of the contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Design:
    """The layout of n runs over c cells and b blocks, with what every contrast needs of it.

    Attributes:
        cells: (n,) cell index of each run.
        blocks: (n,) block index of each run.
        sizes: (b,) runs per block.
        centred: (n, c) cell indicators minus their block means.
        inverse: (c, c) pseudo-inverse of `centred' centred`.
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


def layout(cells: Ints, blocks: Ints, n_cells: int) -> Design:
    """Builds the design of runs.

    Args:
        cells: (n,) cell index of each run, below `n_cells`; a cell may have no run.
        blocks: (n,) block index of each run, 0 .. b-1, each block with at least one run.
        n_cells: c.

    Returns:
        The design.

    Examples:
        Two cells in each of three blocks: 6 runs, of which cells and blocks take 4 degrees of freedom.

        >>> design = layout(np.array([0, 1] * 3), np.array([0, 0, 1, 1, 2, 2]), 2)
        >>> design.dof, design.leverage.round(3).tolist()
        (2, [0.667, 0.667, 0.667, 0.667, 0.667, 0.667])
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
    """Says which contrasts (t, c) the runs determine: those in the row space of the centred indicators."""
    gram = design.centred.T @ design.centred
    return np.asarray(np.abs(weights - weights @ design.inverse @ gram).max(axis=1) < 1e-8)


def residuals(design: Design, y: Floats) -> Floats:
    """Returns (n, s) residuals of responses (n, s) from the cell + block model.

    Examples:
        >>> design = layout(np.array([0, 1] * 2), np.array([0, 0, 1, 1]), 2)
        >>> residuals(design, np.array([[5.0, 7.0, 1.0, 5.0]]).T).round(3).ravel().tolist()
        [0.5, -0.5, -0.5, 0.5]
    """
    block_sums = np.zeros((len(design.sizes), y.shape[1]))
    np.add.at(block_sums, design.blocks, y)
    centred_y = y - (block_sums / design.sizes[:, None])[design.blocks]
    return np.asarray(centred_y - design.centred @ (design.inverse @ (design.centred.T @ y)))


def loadings_of(design: Design, weights: Floats) -> Floats:
    """Returns (n, t) coefficients of the runs in contrasts (t, c): the estimates are `loadings' y`."""
    return np.asarray(design.centred @ design.inverse @ weights.T)
