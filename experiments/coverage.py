"""What the intervals, verdicts and recommendations of a report do on simulated studies: the tables of docs/analysis.md.

Everything that is judged is the program's own: layouts, contrasts, errors, Holm's correction and verdicts of
`pipeline.analysis`, called on the logarithms of simulated training times, or on shares of right answers for accuracy.
Usage: python experiments/coverage.py [intervals|widths|pooled|accuracy ...] [--studies 4000] [--seed 1]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd

from pipeline.analysis import contrasts, linear, pooling, verdicts
from pipeline.analysis.contrasts import Cell
from pipeline.analysis.frame import OFF, ON, Factor
from pipeline.analysis.group_effects import group_rows
from pipeline.analysis.linear import Floats
from pipeline.analysis.responses import RESPONSES
from pipeline.analysis.variance import BLOCKS_FOR_CR2, Estimator

NOISE = 0.02  # of a run's log time
BLOCK_SHIFT = 0.05
MARGIN = math.log1p(0.01)
KINDS = ("main", "interaction", "simple", "combined", "synergy")
# cells -> the techniques' numbers of levels
DESIGNS = {2: (1,), 3: (2,), 4: (1, 1), 8: (1, 1, 1), 12: (2, 1, 1), 16: (1, 1, 1, 1)}


class Design:
    """One full factorial with all its contrasts.

    Args:
        levels: Number of on-levels of each technique.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        names = "abcd"[: len(levels)]
        self.factors = [
            Factor(name, (ON,) if count == 1 else tuple(str(2 * (i + 1)) for i in range(count)))
            for name, count in zip(names, levels, strict=True)
        ]
        self.cells: list[Cell] = list(product(*[(OFF, *factor.levels) for factor in self.factors]))
        found = contrasts.build_contrasts(self.cells, self.cells, self.factors)
        self.weights = np.array([c.weights for c in found])
        self.kinds = np.array([c.kind for c in found])
        self.on = np.array([[level != OFF for level in cell] for cell in self.cells], dtype=float)  # (c, techniques)

    def estimator(self, blocks: int) -> Estimator:
        """Returns what estimates the contrasts of complete blocks, runs ordered by block and cell."""
        c = len(self.cells)
        layout = linear.layout(np.tile(np.arange(c), blocks), np.repeat(np.arange(blocks), c), c)
        return Estimator(layout, self.weights)


Draw = Callable[[np.random.Generator, tuple[int, int, int], Design], Floats]


def _lognormal(rng: np.random.Generator, shape: tuple[int, int, int], _: Design) -> Floats:
    """Times with a long tail: 1 + a X, X lognormal with sigma 1, standard deviation 2 %."""
    x = rng.lognormal(size=shape)
    return np.asarray(np.log1p(NOISE * x / math.sqrt((math.e - 1) * math.e)))


def _autoregressive(rng: np.random.Generator, shape: tuple[int, int, int], _: Design) -> Floats:
    """Neighbours in the randomised order of a block are correlated by 0.9."""
    noise = rng.normal(size=shape)
    for i in range(1, shape[2]):
        noise[..., i] = 0.9 * noise[..., i - 1] + math.sqrt(1 - 0.81) * noise[..., i]
    return np.asarray(np.take_along_axis(noise, rng.random(shape).argsort(axis=2), axis=2) * NOISE)


def _noisy_cell(cell: int, times: float) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, int, int], _: Design) -> Floats:
        scale = np.full(shape[2], NOISE)
        scale[cell] *= times
        return np.asarray(rng.normal(size=shape) * scale)

    return draw


def _varying(tau: float) -> Draw:
    """Every technique's effect differs from block to block, by tau times the noise."""

    def draw(rng: np.random.Generator, shape: tuple[int, int, int], design: Design) -> Floats:
        effect = rng.normal(size=(*shape[:2], design.on.shape[1])) * tau * NOISE
        return np.asarray(rng.normal(size=shape) * NOISE + effect @ design.on.T)

    return draw


def _twins(rng: np.random.Generator, shape: tuple[int, int, int], design: Design) -> Floats:
    """The last technique changes nothing at all: its runs are those without it."""
    noise = rng.normal(size=shape) * NOISE
    at = {cell: i for i, cell in enumerate(design.cells)}
    return np.asarray(noise[..., [at[(*cell[:-1], OFF)] for cell in design.cells]])


def _bad_block(rng: np.random.Generator, shape: tuple[int, int, int], _: Design) -> Floats:
    noise = rng.normal(size=shape) * NOISE
    noise[:, 0] *= 5
    return np.asarray(noise)


def _normal(rng: np.random.Generator, shape: tuple[int, int, int], _: Design) -> Floats:
    return np.asarray(rng.normal(size=shape) * NOISE)


def _t3(rng: np.random.Generator, shape: tuple[int, int, int], _: Design) -> Floats:
    return np.asarray(rng.standard_t(3, size=shape) * NOISE / math.sqrt(3))


def _outliers(rng: np.random.Generator, shape: tuple[int, int, int], design: Design) -> Floats:
    return _normal(rng, shape, design) + math.log(1.3) * (rng.random(shape) < 0.1)


SCENARIOS: dict[str, Draw] = {
    "normal": _normal,
    "lognormal tail": _lognormal,
    "t(3)": _t3,
    "AR(1), 0.9": _autoregressive,
    "10 % of runs 30 % slower": _outliers,
    "baseline scatters 5x": _noisy_cell(0, 5),
    "baseline scatters 10x": _noisy_cell(0, 10),
    "all on scatters 10x": _noisy_cell(-1, 10),
    "one block scatters 5x": _bad_block,
    "techniques vary, 0.5": _varying(0.5),
    "techniques vary, 1": _varying(1),
    "techniques vary, 2": _varying(2),
    "exact twins": _twins,
}
ALIKE = frozenset({"normal", "lognormal tail", "t(3)", "AR(1), 0.9", "10 % of runs 30 % slower"})


def simulate(design: Design, scenario: str, blocks: int, studies: int, seed: int) -> Floats:
    """Draws log times (runs, studies) without any effect: block shifts and the scenario's errors."""
    rng = np.random.default_rng([seed, blocks, len(design.cells), list(SCENARIOS).index(scenario)])
    shape = (studies, blocks, len(design.cells))
    y = SCENARIOS[scenario](rng, shape, design) + rng.normal(0, BLOCK_SHIFT, (studies, blocks, 1))
    return np.asarray(y.reshape(studies, -1).T)


def judge(design: Design, y: Floats, blocks: int) -> dict[str, tuple[float, float, float]]:
    """Judges studies without an effect.

    Args:
        design: The factorial.
        y: (runs, studies) log times.
        blocks: Number of complete blocks.

    Returns:
        Kind -> the least coverage of its contrasts' 95 % intervals, the share of families with a false `pays`, the
        share of errors that are not finite, all in percent.
    """
    fit = design.estimator(blocks).fit(y, by_block=blocks >= BLOCKS_FOR_CR2)
    se, dof = np.sqrt(fit.variance), fit.dof[:, None]
    covered = np.abs(fit.estimate) <= verdicts.half_widths(se, dof, 0.95) + verdicts.ROUNDING
    p = verdicts.p_values(fit.estimate, se, dof)
    found = {}
    for kind in KINDS:
        at = design.kinds == kind
        if at.any():
            said = verdicts.verdicts(
                fit.estimate[at], se[at], dof[at], verdicts.holm(p[at]), MARGIN, higher_is_better=False, alpha=0.05
            )
            pays = (said == verdicts.PAYS).any(axis=0).mean()
            found[kind] = (100 * covered[at].mean(axis=1).min(), 100 * pays, 100 * (~np.isfinite(se[at])).mean())
    return found


def pooled_coverage(tau: float, blocks: int, studies: int, seed: int, groups: int = 6) -> tuple[float, float]:
    """Judges the main effects' average over groups that share their blocks.

    Args:
        tau: How much a technique's effect differs from block to block, alike in all groups, over the noise.
        blocks: Blocks.
        studies: Studies.
        seed: Of the random numbers.
        groups: Models times data sets.

    Returns:
        Least coverage of the 95 % intervals and share of families with a false `pays`, in percent.
    """
    design = Design((1, 1, 1))
    rng = np.random.default_rng([seed, blocks, round(100 * tau)])
    shape = (studies, blocks, len(design.cells))
    together = rng.normal(size=(studies, blocks, 3)) * tau * NOISE @ design.on.T
    estimator, by = design.estimator(blocks), blocks >= BLOCKS_FOR_CR2
    fits = []
    for _ in range(groups):
        y = together + rng.normal(size=shape) * NOISE + rng.normal(0, BLOCK_SHIFT, (studies, blocks, 1))
        fits.append(estimator.fit(y.reshape(studies, -1).T, by_block=by))
    mains = np.flatnonzero(design.kinds == "main")
    estimate = np.mean([fit.estimate[mains] for fit in fits], axis=0)
    names = tuple(map(str, range(blocks)))
    errors = [
        pooling.by_block(
            [
                pooling.BlockScores(
                    names, fit.scores[t], estimator.gram[t], estimator.borrowed[t], fit.pooled, estimator.design.dof
                )
                for fit in fits
                if fit.scores is not None
            ]
        )
        if by
        else pooling.independent(
            np.array([fit.variance[t] for fit in fits]),
            np.full((groups, 1), estimator.fit(y[0].reshape(-1, 1), by_block=False).dof[t]),
        )
        for t in mains
    ]
    se, dof = np.array([e[0] for e in errors]), np.array([np.broadcast_to(e[1], studies) for e in errors])
    covered = np.abs(estimate) <= verdicts.half_widths(se, dof, 0.95)
    adjusted = verdicts.holm(verdicts.p_values(estimate, se, dof))
    said = verdicts.verdicts(estimate, se, dof, adjusted, MARGIN, higher_is_better=False, alpha=0.05)
    return 100 * covered.mean(axis=1).min(), 100 * (said == verdicts.PAYS).any(axis=0).mean()


def accuracy(
    levels: Sequence[int], blocks: int, images: int, spread: float, studies: int, seed: int
) -> Iterator[pd.DataFrame]:
    """Yields the rows of accuracy of studies whose last technique changes no bit, and no technique has an effect."""
    design = Design(levels)
    rng = np.random.default_rng([seed, blocks, images, len(design.cells)])
    at = {cell: i for i, cell in enumerate(design.cells)}
    source = [at[(*cell[:-1], OFF)] for cell in design.cells]
    for _ in range(studies):
        level = 0.8 + rng.normal(0, 0.01, (blocks, 1)) + rng.normal(0, spread, (blocks, len(design.cells)))
        share = np.round(level[:, source] * images) / images
        runs = pd.DataFrame(
            {f"level.{f.name}": [cell[i] for cell in design.cells] * blocks for i, f in enumerate(design.factors)}
        )
        runs = runs.assign(
            block=np.repeat([str(b) for b in range(blocks)], len(design.cells)),
            outcome="finished",
            accuracy=share.ravel(),
            test_images=images,
        )
        for response in RESPONSES:
            if response.name != "accuracy":
                runs[response.name] = math.nan
        yield pd.DataFrame(group_rows(("m", "d"), runs, design.factors))


def accuracy_judged(
    levels: Sequence[int], blocks: int, images: int, spread: float, studies: int, seed: int
) -> tuple[float, float, float]:
    """Judges the main effects of accuracy but the one that changes no bit.

    Returns:
        Coverage where there is an interval, studies with a false verdict, intervals that are missing; in percent.
    """
    covered, false, silent = [], 0, []
    for rows in accuracy(levels, blocks, images, spread, studies, seed):
        main = rows[rows["kind"].eq("main")]
        estimate, se, dof = (main[c].to_numpy(dtype=float) for c in ("log_estimate", "se", "dof"))
        half = verdicts.half_widths(se, dof, 0.95)
        known = ~np.isnan(half)
        known[-1] = False  # zero, and known to be
        # a zero is zero to the last bit on one processor and 1e-15 on the next; `effects.estimate` takes both for zero
        covered += list(np.abs(estimate[known]) <= half[known] + verdicts.ROUNDING)
        silent += list(np.isnan(half[:-1]))
        adjusted = verdicts.holm(verdicts.p_values(estimate, se, dof))
        said = verdicts.verdicts(estimate, se, dof, adjusted, 1.0, higher_is_better=True, alpha=0.05)
        false += bool(set(said) & {verdicts.PAYS, verdicts.COSTS})
    return 100 * float(np.mean(covered)) if covered else math.nan, 100 * false / studies, 100 * float(np.mean(silent))


def _row(names: Sequence[object], entries: Sequence[str]) -> str:
    return "| " + " | ".join([*map(str, names), *entries]) + " |"


def _head(names: Sequence[str], blocks: Sequence[int]) -> list[str]:
    titles = [f"{b} block{'s' * (b > 1)}" for b in blocks]
    return [_row(names, titles), "|---" * (len(names) + len(blocks)) + "|"]


def intervals_table(studies: int, seed: int, blocks: Sequence[int] = (2, 3, 4, 5, 10)) -> str:
    """Writes coverage / false `pays` of the worst kind of effect, in the worst design and in that of 8 cells."""
    lines = _head(["scenario", "cells"], blocks)
    for scenario in SCENARIOS:
        # with one technique that changes nothing only zeros are left
        designs = {c: Design(v) for c, v in DESIGNS.items() if scenario != "exact twins" or c >= 4}
        judged = {
            (c, b): judge(design, simulate(design, scenario, b, studies, seed), b).values()
            for c, design in designs.items()
            for b in blocks
        }
        assert not any(v[2] for found in judged.values() for v in found), "an error is not finite"
        for name, chosen in (("worst", list(designs)), ("8", [8])):
            worst = [[v for c in chosen for v in judged[c, b]] for b in blocks]
            entries = [f"{min(v[0] for v in found):.1f} / {max(v[1] for v in found):.1f}" for found in worst]
            lines.append(_row([scenario, name], entries))
    return "\n".join(lines)


def widths_table(studies: int, seed: int, blocks: Sequence[int] = (2, 3, 4, 5, 10)) -> str:
    """Writes the median half width of intervals of 8 cells in true standard errors, errors by run and by block."""
    design, lines = Design((1, 1, 1)), _head(["effect", "errors"], blocks)
    for kind in ("main", "simple"):
        at = np.flatnonzero(design.kinds == kind)[0]
        for name, by_block in (("by run (HC2)", False), ("by block (CR2)", True)):
            entries = []
            for b in blocks:
                estimator = design.estimator(b)
                fit = estimator.fit(simulate(design, "normal", b, studies, seed), by_block=by_block)
                half = verdicts.half_widths(np.sqrt(fit.variance[at]), fit.dof[at], 0.95)
                entries.append(f"{np.median(half) / NOISE / np.linalg.norm(estimator.loadings[:, at]):.2f}")
            lines.append(_row([kind, name], entries))
    return "\n".join(lines)


def pooled_table(studies: int, seed: int, blocks: Sequence[int] = (2, 3, 4, 5, 10)) -> str:
    """Writes coverage / false `pays` of the `all` rows of six groups."""
    lines = _head(["techniques vary by"], blocks)
    for tau in (0.0, 0.25, 0.5, 1.0):
        found = [pooled_coverage(tau, b, studies, seed) for b in blocks]
        lines.append(_row([f"{tau:g} x noise"], [f"{c:.1f} / {p:.1f}" for c, p in found]))
    return "\n".join(lines)


def accuracy_table(studies: int, seed: int, blocks: Sequence[int] = (1, 2, 3, 5, 10)) -> str:
    """Writes coverage / false verdicts / missing intervals of accuracy under exact twins."""
    lines = _head(["cells", "test images", "spread, points"], blocks)
    for levels, images, spread in (
        ((1, 1, 1), 10_000, 0.003),
        ((1, 1, 1), 500, 0.01),
        ((1, 1), 500, 0.01),
        ((1, 1), 45, 0.02),
    ):
        found = [accuracy_judged(levels, b, images, spread, studies, seed) for b in blocks]
        entries = [f"{c:.1f} / {f:.1f} / {s:.0f}" for c, f, s in found]
        lines.append(_row([2 ** len(levels), images, f"{100 * spread:g}"], entries))
    return "\n".join(lines)


TABLES = {"intervals": intervals_table, "widths": widths_table, "pooled": pooled_table, "accuracy": accuracy_table}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; all by default")
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    unknown = [name for name in options.tables if name not in TABLES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no table; allowed: {', '.join(TABLES)}")
    for name in options.tables or TABLES:
        print(f"\n{name}, {options.studies} studies a figure, seed {options.seed}\n", flush=True)
        print(TABLES[name](options.studies, options.seed), flush=True)


if __name__ == "__main__":
    main()
