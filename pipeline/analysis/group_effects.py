"""The effects of one (model, dataset): every contrast of its cells, for every response it has data for.

Responses that are known for the same runs share their design matrix and their error estimate's set-up: a study has one
or two such patterns of runs, whatever the number of its responses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis import contrasts, lenth, linear, variance
from pipeline.analysis.contrasts import Cell, Contrast
from pipeline.analysis.frame import OFF, Factor, number
from pipeline.analysis.linear import Floats
from pipeline.analysis.pooling import BlockScores
from pipeline.analysis.responses import RATIO, RESPONSES, Response
from pipeline.analysis.verdicts import ROUNDING

CELL = "cell"


@dataclass(frozen=True)
class ResponsePattern:
    """The contrasts and the design that belong to one pattern of runs.

    Attributes:
        contrasts: Every effect, with or without an estimate.
        ready: Indices of the t effects that the runs determine.
        weights: (t, c) their weights over the c cells with data.
        design: The layout of the n runs.
        estimator: Estimates the t effects.
        lenth_basis: (c - 1, c) orthonormal contrasts, where Lenth's method applies.
    """

    contrasts: list[Contrast]
    ready: list[int]
    weights: Floats
    design: linear.Design
    estimator: variance.Estimator
    lenth_basis: Floats | None


def _lenth_basis(cells: Sequence[Cell], planned: Sequence[Cell], factors: Sequence[Factor], runs: int) -> Floats | None:
    """Returns the orthonormal contrasts (c - 1, c) of an unreplicated, complete design, for Lenth's method.

    Returns:
        The contrasts; None where the method does not apply.
    """
    if runs != len(cells) or set(cells) != set(planned):
        return None
    sizes = tuple(1 + len(f.levels) for f in factors)
    if math.prod(sizes) == len(cells):
        full = lenth.orthonormal_basis(sizes)
        ranks = {f.name: {v: i for i, v in enumerate((OFF, *f.levels))} for f in factors}
        place = [
            int(np.ravel_multi_index([ranks[f.name][v] for f, v in zip(factors, c, strict=True)], sizes)) for c in cells
        ]
        return full[:, place]
    groups = contrasts.aliases_of(planned, factors)
    if not groups:
        return None
    signs = np.array([[1.0 if v != OFF else -1.0 for v in cell] for cell in cells])
    names = [f.name for f in factors]
    return np.array([signs[:, [names.index(n) for n in g.lead]].prod(axis=1) for g in groups]) / math.sqrt(len(cells))


@lru_cache(maxsize=8)  # the models of a study mostly ran the same cells in the same blocks
def _layout(
    index: tuple[int, ...], blocks: tuple[int, ...], planned: tuple[Cell, ...], factors: tuple[Factor, ...]
) -> ResponsePattern:
    """Builds what the runs of one pattern need.

    Args:
        index: (n,) each run's cell, as an index into `planned`.
        blocks: (n,) each run's block, as a code.
        planned: All cells that the study tried.
        factors: The techniques that were on somewhere.
    """
    present = sorted(set(index))
    cells = [planned[i] for i in present]
    position = {cell: i for i, cell in enumerate(present)}
    codes = np.array([position[i] for i in index])
    design = linear.layout(codes, np.unique(blocks, return_inverse=True)[1].astype(np.intp), len(cells))
    found = contrasts.build_contrasts(cells, planned, factors)
    base = tuple(OFF for _ in factors)
    if base in cells:
        for i, cell in enumerate(cells):
            if cell != base:
                against = np.zeros(len(cells))
                against[i], against[cells.index(base)] = 1.0, -1.0
                found.append(Contrast(contrasts.label(cell, factors), CELL, (), against))
    ready = [i for i, c in enumerate(found) if c.weights is not None]
    weights = np.array([found[i].weights for i in ready]).reshape(len(ready), len(cells))
    if ready:
        ok = linear.estimable(design, weights)
        ready, weights = [i for i, good in zip(ready, ok, strict=True) if good], weights[ok]
    estimator = variance.Estimator(design, weights)
    return ResponsePattern(found, ready, weights, design, estimator, _lenth_basis(cells, planned, factors, len(index)))


@dataclass(frozen=True)
class _Numbers:
    """Estimates, standard errors and degrees of freedom of t effects, by which method, and the errors' parts."""

    estimate: Floats
    se: Floats
    dof: Floats
    method: str
    scores: list[BlockScores | None]


def sampling_variances(points: Floats, images: Floats) -> Floats:
    """Returns the binomial variances of accuracies, in squared percentage points; 0 where the test set is not known.

    Args:
        points: (n,) accuracies in percent.
        images: (n,) numbers of test images; NaN where unknown.

    Examples:
        >>> sampling_variances(np.array([90.0, 50.0]), np.array([100.0, np.nan])).round(9).tolist()
        [9.0, 0.0]
    """
    share = np.clip(points / 100, 0.0, 1.0)
    return np.nan_to_num(1e4 * share * (1 - share) / images)


def _numbers(
    layout: ResponsePattern, response: Response, y: Floats, images: Floats, blocks: tuple[str, ...]
) -> _Numbers:
    """Estimates all ready contrasts of one response y (n,), of runs with as many test images each."""
    fit = layout.estimator.fit(y[:, None], by_block=len(blocks) >= response.by_block_from)
    estimate, nothing = fit.estimate[:, 0], list[BlockScores | None]([None] * len(layout.ready))
    if layout.design.dof > 0:
        se = np.sqrt(fit.variance[:, 0])
        if response.unit != RATIO:  # blocks that agree to the last digit of a share say nothing of its error
            se = np.where((se <= ROUNDING) & (np.abs(estimate) > ROUNDING), np.nan, se)
        if fit.scores is None:
            return _Numbers(estimate, se, fit.dof, "hc2", nothing)
        gram, borrowed = layout.estimator.gram, layout.estimator.borrowed
        scores = [
            BlockScores(blocks, fit.scores[t], gram[t], borrowed[t], fit.pooled[:1], layout.design.dof)
            if not math.isnan(se[t])
            else None
            for t in range(len(estimate))
        ]
        return _Numbers(estimate, se, fit.dof, "cr2", scores)
    sigma = freedom = math.nan
    if layout.lenth_basis is not None:
        sigma, freedom = lenth.lenth(layout.lenth_basis, y[np.argsort(layout.design.cells)])
    se = sigma * np.linalg.norm(layout.weights, axis=1)
    if response.unit != RATIO:  # one seed on one test set knows no better than that test set samples
        se = np.maximum(se, np.sqrt(sampling_variances(y, images) @ layout.estimator.loadings**2))
    return _Numbers(estimate, se, np.full_like(se, freedom), "none" if math.isnan(sigma) else "lenth", nothing)


def group_rows(key: tuple[str, str], runs: pd.DataFrame, factors: Sequence[Factor]) -> list[dict[str, Any]]:
    """Estimates all effects of all responses in one (model, dataset)."""
    active = [f for f in factors if f.levels and runs[f"level.{f.name}"].ne(OFF).any()]
    columns = [f"level.{f.name}" for f in active]
    levels = list(runs[columns].itertuples(index=False, name=None)) if active else [()] * len(runs)
    planned = sorted(set(levels))
    where = {cell: i for i, cell in enumerate(planned)}
    cell = np.array([where[c] for c in levels])
    block, blocks = runs["block"].factorize()
    finished = runs["outcome"].eq("finished").to_numpy()
    patterns: dict[bytes, tuple[NDArray[np.bool_], list[tuple[Response, Floats]]]] = {}
    for response in RESPONSES:
        if runs[response.name].notna().any():
            y = response.to_scale(runs[response.name]).to_numpy(dtype=float)
            use = finished & np.isfinite(y)
            patterns.setdefault(use.tobytes(), (use, []))[1].append((response, y[use]))
    rows: list[dict[str, Any]] = []
    for use, columns_y in patterns.values():
        if use.any():
            layout = _layout(tuple(cell[use].tolist()), tuple(block[use].tolist()), tuple(planned), tuple(active))
            names = tuple(str(blocks[i]) for i in np.unique(block[use]))
            images = number(runs, "test_images").to_numpy(dtype=float)[use]
            rows += _pattern_rows(key, layout, columns_y, images, names)
    return rows


def _pattern_rows(
    key: tuple[str, str],
    layout: ResponsePattern,
    columns: list[tuple[Response, Floats]],
    images: Floats,
    blocks: tuple[str, ...],
) -> list[dict[str, Any]]:
    """Turns the numbers of one pattern into rows; effects without an estimate stay, with NaN and their note."""
    place = {i: t for t, i in enumerate(layout.ready)}
    rows = []
    for response, y in columns:
        numbers = _numbers(layout, response, y, images, blocks)
        for i, contrast in enumerate(layout.contrasts):
            t = place.get(i)
            note = contrast.note
            if t is None and contrast.weights is not None:
                note = (note + "; " if note else "") + "the runs do not connect the cells it compares"
            rows.append(
                {
                    "model": key[0],
                    "dataset": key[1],
                    "response": response.name,
                    "term": contrast.term,
                    "kind": contrast.kind,
                    "techniques": contrast.techniques,
                    "log_estimate": math.nan if t is None else float(numbers.estimate[t]),
                    "se": math.nan if t is None else float(numbers.se[t]),
                    "dof": math.nan if t is None else float(numbers.dof[t]),
                    "method": "none" if t is None else numbers.method,
                    "scores": None if t is None else numbers.scores[t],
                    "estimable": t is not None,
                    "note": note,
                    "blocks": len(blocks),
                    "runs": len(images),
                }
            )
    return rows
