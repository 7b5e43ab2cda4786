"""How precise the effects of cells that take turns are, round by round, and when rounds are enough.

A round is a block, and every cell has one value in each: an effect is the mean over rounds of its contrast of the
logarithms, with Student's interval (which is what `effects.estimate` says of complete blocks).

Rounds are looked at after each one, by the rule of `analysis.stopping`: an interval has to be narrow enough, and to
have been so five rounds ago or before. With intervals of 95 % and looks from the third round on, 93.4 to 95 % of them
cover, by the noise; with intervals of 96 % it is 94.7 to 95.7 % (6,000 simulations each, up to 80 rounds). Those are
made here, and are intervals of 95 %, the looks included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis import student_t
from pipeline.analysis.contrasts import Cell, build_contrasts, label
from pipeline.analysis.frame import OFF, ON, Factor
from pipeline.analysis.linear import Floats
from pipeline.analysis.stopping import FURTHER_BLOCKS, precise

PRECISE_KINDS = ("main", "simple")  # that are to be precise
UNLOOKED = 0.96  # confidence of a single look's interval, by which 95 % hold over all looks


@dataclass(frozen=True)
class RoundEffect:
    """An effect on the training time of cells that take turns.

    Attributes:
        term, kind: which one; see `contrasts.Contrast`.
        ratio, low, high: training time with over without, with its 95 % interval; the ends are NaN for one round.
        precise: whether rounds are enough for it.
    """

    term: str
    kind: str
    ratio: float
    low: float
    high: float
    precise: bool

    @property
    def half_width(self) -> float:
        """Of the interval, as a fraction."""
        return math.sqrt(self.high / self.low) - 1


def cells_of(settings: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[list[Cell], tuple[Factor, ...]]:
    """Cells as tuples of levels, and the factors.

    Args:
        settings: techniques that are on in each cell, as `NAME` or `NAME=VALUE`.
        names: the techniques of the study, in order.

    Examples:
        >>> cells_of([(), ("ga=4",), ("ga=4", "amp")], ["ga", "amp"])[0]
        [('off', 'off'), ('on', 'off'), ('on', 'on')]
    """
    on = [{tag.partition("=")[0]: tag.partition("=")[2] or ON for tag in setting} for setting in settings]
    levels = {name: sorted({cell[name] for cell in on if name in cell}) for name in names}
    single = {name for name, found in levels.items() if len(found) == 1}
    factors = tuple(Factor(name, (ON,) if name in single else tuple(found)) for name, found in levels.items() if found)
    named = [factor.name for factor in factors]
    return [tuple(ON if n in single and n in cell else cell.get(n, OFF) for n in named) for cell in on], factors


def round_effects(
    settings: Sequence[Sequence[str]],
    names: Sequence[str],
    rates: Sequence[Mapping[int, float]],
    precision: float,
    least: int,
) -> list[RoundEffect]:
    """Estimates main effects and techniques alone from the rounds that all cells have.

    Where not all cells are there (they did not fit beside each other) it is every cell beside the baseline.

    Args:
        settings: techniques that are on in each cell.
        names: the techniques of the study, in order.
        rates: of each cell: round -> images/s.
        precision: half width of an interval that is narrow enough, as a fraction.
        least: rounds, at least.

    Returns:
        The effects; none with fewer than two rounds.
    """
    shared = sorted(set.intersection(*map(set, rates))) if rates else []
    if len(shared) < 2:
        return []
    cells, factors = cells_of(settings, names)
    logs = -np.log([[of_cell[number] for of_cell in rates] for number in shared])
    found = [
        (contrast.term, contrast.kind, contrast.weights)
        for contrast in build_contrasts(cells, cells, factors)
        if contrast.kind in PRECISE_KINDS and contrast.weights is not None
    ]
    baseline = tuple(OFF for _ in factors)
    if not any(kind == "main" for _, kind, _ in found) and baseline in cells:
        found = [
            (label(cell, factors), "cell", np.eye(len(cells))[i] - np.eye(len(cells))[cells.index(baseline)])
            for i, cell in enumerate(cells)
            if cell != baseline
        ]
    return [_effect(term, kind, logs @ weights, precision, least) for term, kind, weights in found]


def _effect(term: str, kind: str, values: Floats, precision: float, least: int) -> RoundEffect:
    """Estimates one effect from its contrast in each round, (r,)."""
    widths = running_widths(values)
    enough = precise(widths, (1 + precision) ** 2 - 1, first=max(least - FURTHER_BLOCKS, 1), further=FURTHER_BLOCKS)
    mean, low, high = student_t.mean_interval(values, UNLOOKED)
    return RoundEffect(term, kind, math.exp(mean), math.exp(low), math.exp(high), bool(enough[-1]))


def running_widths(values: Floats) -> Floats:
    """Whole widths `high / low - 1` of an effect's interval after 1 .. n rounds.

    Args:
        values: (..., n) its contrast of logarithms in each round.

    Examples:
        >>> running_widths(np.array([0.0, 0.02, 0.01, 0.01])).round(3).tolist()
        [nan, 0.374, 0.058, 0.029]
    """
    count = np.arange(1, values.shape[-1] + 1)
    total, squares = values.cumsum(axis=-1), (values**2).cumsum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(squares - total**2 / count, 0.0) / (count - 1)
        half = student_t.quantile(0.5 + UNLOOKED / 2, np.maximum(count - 1, 1)) * np.sqrt(variance / count)
    return np.where(count > 1, np.expm1(2 * half), np.nan)


def raised_for_looks(se: Floats, dof: Floats) -> Floats:
    """Standard errors by which an interval of 95 % is one of `UNLOOKED`."""
    wide, narrow = (student_t.quantile(0.5 + confidence / 2, dof) for confidence in (UNLOOKED, 0.95))
    return np.asarray(se * wide / narrow)


def precision_text(effects: Sequence[RoundEffect], precision: float) -> str:
    """Says how precise effects are, for people."""
    if not effects:
        return "no interval yet"
    wide = [effect for effect in effects if not effect.precise]
    widest = max(effects, key=lambda effect: effect.half_width)
    known = f"widest interval {widest.term} {1 / widest.ratio:.3f}x as fast ± {widest.half_width:.1%}"
    return f"{len(effects) - len(wide)} of {len(effects)} effects known to {100 * precision:g} %, {known}"
