"""Layouts of runs over eight cells of three techniques, with simulated responses."""

from itertools import product

import numpy as np

from pipeline.analysis import contrasts
from pipeline.analysis.frame import Factor

FACTORS = [Factor(name, ("on",)) for name in ("a", "b", "c")]


CELLS = list(product(("off", "on"), repeat=3))


def balanced(blocks, seed=0):
    rng = np.random.default_rng(seed)
    cells = np.tile(np.arange(8), blocks)
    block = np.repeat(np.arange(blocks), 8)
    return cells, block, rng.normal(size=8 * blocks) + block + 0.3 * cells


def all_contrasts():
    found = contrasts.build_contrasts(CELLS, CELLS, FACTORS)
    return found, np.array([c.weights for c in found])


def unbalanced(seed, blocks=4, drop=6):
    rng = np.random.default_rng(seed)
    cells, block, y = balanced(blocks, seed)
    keep = np.sort(rng.permutation(len(y))[drop:])
    _, block = np.unique(block[keep], return_inverse=True)
    return cells[keep], block, y[keep]
