"""From the cells that a study planned and those that finished to the contrasts that answer its questions.

A cell is a tuple of levels, one per factor, `"off"` or an on-level. Every effect is a vector of weights
over the cells. Definitions (of the public contract), all on the log scale for ratios:

- main a: on minus off, averaged over all settings of the other techniques;
- interaction a:b...: the effect of a with b on minus its effect with b off (twice the textbook half-effect),
  averaged over the others; higher orders alike;
- simple a: a alone minus baseline; combined: all on minus baseline; synergy: combined minus the sum of the
  simples.

A missing cell is never silently dropped: an average over fewer settings says which ones it lacks, and an
effect that needs a missing cell is kept with no estimate and a note.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.frame import BASELINE, OFF, ON, Factor
from pipeline.design.factorial import AliasSet, alias_structure, is_regular_fraction

Cell = tuple[str, ...]
MOST_EFFECTS = 400  # main effects and interactions of a group, beyond which those of high orders are left out
MOST_NAMED = 32  # cells without data that a note names; of more it says the number


@dataclass(frozen=True)
class Contrast:
    """One effect as weights over the cells.

    Attributes:
        term: `ga`, `ga:amp`, `ga+amp+pm`; `ga=4` where a technique has several levels.
        kind: main, interaction, simple, combined or synergy.
        techniques: The techniques it is about.
        weights: (c,) over the cells given; None where a cell it needs is missing.
        note: What the reader must know: settings left out, missing cells, aliases. Empty in the regular case.
    """

    term: str
    kind: str
    techniques: tuple[str, ...]
    weights: NDArray[np.float64] | None
    note: str = ""


def label(cell: Cell, factors: Sequence[Factor]) -> str:
    """Names a cell as runs are named: `baseline`, `ga+amp`."""
    parts = [f.term(level) for f, level in zip(factors, cell, strict=True) if level != OFF]
    return "+".join(parts) or BASELINE


class _Builder:
    """Holds the cells that have data while the contrasts are built."""

    def __init__(self, cells: Sequence[Cell], factors: Sequence[Factor]) -> None:
        self.factors = tuple(factors)
        self.index: Mapping[Cell, int] = {cell: i for i, cell in enumerate(cells)}
        self.n = len(cells)

    def cell(self, on: Mapping[int, str]) -> Cell:
        """Returns the cell with the named factors at a level and all others off."""
        return tuple(on.get(i, OFF) for i in range(len(self.factors)))

    def factorial(self, which: tuple[int, ...], levels: tuple[str, ...]) -> Contrast:
        """Builds a main effect (one factor) or interaction, averaged over the settings with data in all corners.

        Args:
            which: Indices of the factors that it is about.
            levels: One on-level for each of them.
        """
        others = [i for i in range(len(self.factors)) if i not in which]
        corners: dict[Cell, list[tuple[int, int]]] = {}  # setting of the others -> (cell, sign) of those with data
        for cell, number in self.index.items():
            on = [cell[i] != OFF for i in which]
            if all(not bit or cell[i] == lv for i, lv, bit in zip(which, levels, on, strict=True)):
                setting = tuple(cell[i] for i in others)
                corners.setdefault(setting, []).append((number, (-1) ** (len(which) - sum(on))))
        weights = np.zeros(self.n)
        used = 0
        for found in corners.values():
            if len(found) == 2 ** len(which):
                used += 1
                for number, sign in found:
                    weights[number] += sign
        settings = math.prod(1 + len(self.factors[i].levels) for i in others)
        lacking = settings * 2 ** len(which) - sum(map(len, corners.values()))
        term = ":".join(self.factors[i].term(lv) for i, lv in zip(which, levels, strict=True))
        note = ""
        if lacking:
            names = f"{lacking} cells" if lacking > MOST_NAMED else ", ".join(self._lacking(which, levels))
            note = f"averaged over {used} of {settings} settings; no data for {names}"
        return Contrast(
            term,
            "main" if len(which) == 1 else "interaction",
            tuple(self.factors[i].name for i in which),
            weights / used if used else None,
            note,
        )

    def _lacking(self, which: tuple[int, ...], levels: tuple[str, ...]) -> list[str]:
        """Names the cells without data that an effect is about."""
        level = dict(zip(which, levels, strict=True))
        choices = [(OFF, level[i]) if i in level else (OFF, *f.levels) for i, f in enumerate(self.factors)]
        return sorted(label(cell, self.factors) for cell in product(*choices) if cell not in self.index)

    def needing(self, term: str, kind: str, techniques: tuple[str, ...], parts: Mapping[Cell, float]) -> Contrast:
        """Builds a contrast from explicit cells, all of which it needs."""
        absent = [label(c, self.factors) for c in parts if c not in self.index]
        if absent:
            return Contrast(term, kind, techniques, None, f"no data for {', '.join(sorted(absent))}")
        weights = np.zeros(self.n)
        for cell, value in parts.items():
            weights[self.index[cell]] += value
        return Contrast(term, kind, techniques, weights)

    def alone(self) -> list[Contrast]:
        """Builds simple effects, combination against baseline and synergy, per combination of levels."""
        off, found = self.cell({}), []
        for i, factor in enumerate(self.factors):
            for level in factor.levels:
                parts = {self.cell({i: level}): 1.0, off: -1.0}
                found.append(self.needing(factor.term(level), "simple", (factor.name,), parts))
        if len(self.factors) < 2:
            return found
        names = tuple(f.name for f in self.factors)
        if math.prod(len(f.levels) for f in self.factors) > MOST_EFFECTS:  # each technique at each of several levels
            return found
        for levels in product(*[f.levels for f in self.factors]):
            whole = self.cell(dict(enumerate(levels)))
            term = label(whole, self.factors)
            found.append(self.needing(term, "combined", names, {whole: 1.0, off: -1.0}))
            parts = {whole: 1.0, off: len(levels) - 1.0}
            parts |= {self.cell({i: level}): -1.0 for i, level in enumerate(levels)}
            found.append(self.needing(term, "synergy", names, parts))
        return found


def _fraction(
    cells: Sequence[Cell], planned: Sequence[Cell], factors: Sequence[Factor], aliases: Sequence[AliasSet]
) -> list[Contrast]:
    """Builds main effects and interactions of a regular fraction, one per alias set.

    With every planned cell present the weights are the textbook signs; with a cell missing, the main effects
    come from the least-squares fit of a main-effects model and interactions are not estimated.
    """
    names = [f.name for f in factors]
    on = np.array([[level != OFF for level in cell] for cell in cells], dtype=float)
    signs = 2 * on - 1
    complete = set(cells) == set(planned)
    absent = ", ".join(sorted(label(c, factors) for c in set(planned) - set(cells)))
    model = np.column_stack([np.ones(len(cells)), signs])
    determined = np.linalg.matrix_rank(model) == model.shape[1]
    inverse = np.linalg.pinv(model)
    found = []
    for group in aliases:
        word = group.lead
        if len(word) > highest_order(factors):
            continue
        which = [names.index(name) for name in word]
        note = "aliased: " + group.describe() if len(group.words) > 1 else ""
        weights: NDArray[np.float64] | None = None
        if complete:
            weights = signs[:, which].prod(axis=1) * 2.0 ** len(word) / len(cells)
        elif len(word) == 1 and determined:
            weights = 2.0 * inverse[1 + which[0]]
            note += f"; main-effects model, no data for {absent}"
        else:
            note += f"; no data for {absent}"
        kind = "main" if len(word) == 1 else "interaction"
        term = ":".join(factors[i].term(ON) for i in which)
        found.append(Contrast(term, kind, word, weights, note.removeprefix("; ")))
    return found


def aliases_of(planned: Sequence[Cell], factors: Sequence[Factor]) -> tuple[AliasSet, ...]:
    """Returns the alias sets of the planned cells; empty unless they are a regular two-level fraction."""
    if not planned or any(len(f.levels) != 1 for f in factors):
        return ()
    rows = [{f.name: v != OFF for f, v in zip(factors, cell, strict=True)} for cell in planned]
    return alias_structure(rows) if is_regular_fraction(rows) else ()


def highest_order(factors: Sequence[Factor]) -> int:
    """Says how many techniques the interactions that are estimated have at most.

    All of them up to eight techniques; of twelve there would be 4095, most of them of no use to anybody. Main effects
    and interactions of two are always estimated.
    """
    # how many effects of each order there are: the products of 1 + (number of levels) x, by powers of x
    counts = [1]
    for factor in factors:
        shifted = [0, *(len(factor.levels) * count for count in counts)]
        counts = [a + b for a, b in zip([*counts, 0], shifted, strict=True)]
    order, total = 0, 0
    for number in range(1, len(counts)):
        total += counts[number]
        if number > 2 and total > MOST_EFFECTS:
            break
        order = number
    return order


def left_out(factors: Sequence[Factor]) -> str:
    """Says which interactions are not estimated; empty where all are."""
    order = highest_order(factors)
    if order >= len(factors):
        return ""
    return f"{len(factors)} techniques: interactions of more than {order} of them are left out."


def build_contrasts(cells: Sequence[Cell], planned: Sequence[Cell], factors: Sequence[Factor]) -> list[Contrast]:
    """Lists every effect of a study's group.

    Args:
        cells: The c cells with data, in the order that the weights use.
        planned: All cells that the study tried, finished or not.
        factors: The techniques, each with its on-levels; a technique that was never on is left out by the
            caller.

    Returns:
        Main effects, interactions up to `highest_order`, simple effects, combined and synergy.

    Examples:
        >>> cells = [("off", "off"), ("off", "on"), ("on", "off"), ("on", "on")]
        >>> for c in build_contrasts(cells, cells, [Factor("ga", ("on",)), Factor("amp", ("on",))]):
        ...     print(c.kind, c.term, c.weights.tolist())
        main ga [-0.5, -0.5, 0.5, 0.5]
        main amp [-0.5, 0.5, -0.5, 0.5]
        interaction ga:amp [1.0, -1.0, -1.0, 1.0]
        simple ga [-1.0, 0.0, 1.0, 0.0]
        simple amp [-1.0, 1.0, 0.0, 0.0]
        combined ga+amp [-1.0, 0.0, 0.0, 1.0]
        synergy ga+amp [1.0, -1.0, -1.0, 1.0]
    """
    builder = _Builder(cells, factors)
    aliases = aliases_of(planned, factors)
    if aliases:
        return _fraction(cells, planned, factors, aliases) + builder.alone()
    found = []
    for order in range(1, highest_order(factors) + 1):
        for which in combinations(range(len(factors)), order):
            for levels in product(*[factors[i].levels for i in which]):
                found.append(builder.factorial(which, levels))
    return found + builder.alone()
