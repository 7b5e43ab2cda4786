"""Effects over models and data sets: averages of the groups' effects, with their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.linear import Floats
from pipeline.analysis.variance import freedom

ALL = "all"
_WEAKEST = ("none", "lenth", "hc2", "cr2")


@dataclass(frozen=True)
class BlockScores:
    """What the error by block of one effect in one group is made of.

    Attributes:
        blocks: The b blocks' names.
        values: (b,) scores; their squares add up to the variance but for what is borrowed.
        gram: (b, b) their covariances under independent errors of variance 1.
        borrowed: What the variance borrows from the pooled one, over the error's variance.
        pooled: The pooled variance.
        dof: The residual degrees of freedom.
    """

    blocks: tuple[str, ...]
    values: Floats
    gram: Floats
    borrowed: float
    pooled: Floats
    dof: int


def pool(rows: pd.DataFrame) -> pd.DataFrame:
    """Averages the groups' effects over data sets, over models, and over all: fixed, equally weighted groups.

    Errors by block are those of one model of all groups with the blocks as clusters: what a block does to a technique
    it does to all models that ran in it, so the groups' scores are added block by block before they are squared.
    Without blocks enough the groups count as independent: the variance is sum(var) / g^2, its degrees of freedom are
    Welch-Satterthwaite's (Satterthwaite 1946).

    Args:
        rows: One row per group and effect: model, dataset, response, kind, term, techniques, log_estimate, se, dof,
            blocks, runs, estimable, method, note, scores (`BlockScores`, or None).

    Returns:
        The pooled rows, with the same columns and `ALL` for what they are averaged over; none for a single group.

    Examples:
        Two models with errors of 0.03 and 0.04 on 4 degrees of freedom each.

        >>> one = {"dataset": "d", "response": "r", "kind": "main", "term": "ga", "techniques": ("ga",), "dof": 4.0,
        ...        "blocks": 3, "runs": 6, "estimable": True, "method": "hc2", "note": "", "scores": None}
        >>> rows = [one | {"model": "m", "log_estimate": 0.1, "se": 0.03},
        ...         one | {"model": "n", "log_estimate": 0.3, "se": 0.04}]
        >>> pooled = pool(pd.DataFrame(rows))
        >>> pooled[["model", "log_estimate", "se", "dof"]].round(4).to_dict("records")
        [{'model': 'all', 'log_estimate': 0.2, 'se': 0.025, 'dof': 7.4184}]
    """
    models, datasets = rows["model"].nunique(), rows["dataset"].nunique()
    kept: list[list[str]] = [["model"], ["dataset"]] if datasets > 1 and models > 1 else []
    if datasets > 1 or models > 1:
        kept.append([])
    records, pooled = rows.to_dict("records"), []
    for names in kept:
        for part in rows.groupby([*names, "response", "kind", "term"], sort=False).indices.values():
            if len(part) > 1:
                whole = {name: ALL for name in ("model", "dataset") if name not in names}
                pooled.append(_average([records[i] for i in part]) | whole)
    return pd.DataFrame(pooled, columns=rows.columns) if pooled else rows.iloc[:0]


def _average(groups: Sequence[dict[Any, Any]]) -> dict[Any, Any]:
    """Averages one effect over its groups; one without an estimate counts, but its runs and errors do not enter."""
    known = [group for group in groups if group["estimable"]]
    notes = dict.fromkeys(group["note"] for group in known if group["note"])
    if len(known) < len(groups):
        notes[f"averaged over {len(known)} of {len(groups)} groups"] = None
    row = groups[0] | {
        "blocks": min(group["blocks"] for group in groups),
        "runs": sum(group["runs"] for group in known),
        "estimable": bool(known),
        "note": "; ".join(notes),
        "scores": None,
    }
    if not known:
        return row | {"log_estimate": math.nan, "se": math.nan, "dof": math.nan, "method": "none"}
    scores = [group["scores"] for group in known]
    if None in scores or _disjoint(scores):
        se, dof = independent(*np.array([[[group["se"] ** 2], [group["dof"]]] for group in known]).swapaxes(0, 1))
    else:
        se, dof = by_block(scores)
    mean = math.fsum(group["log_estimate"] for group in known) / len(known)
    method = min((group["method"] for group in known), key=_WEAKEST.index)
    return row | {"log_estimate": mean, "se": se.item(), "dof": dof.item(), "method": method}


def _disjoint(scores: Sequence[BlockScores]) -> bool:
    """Whether no block is shared, as with rounds of cells that took turns: the groups are independent."""
    names = [name for group in scores for name in group.blocks]
    return len(scores) > 1 and len(set(names)) == len(names)


def independent(variance: Floats, dof: Floats) -> tuple[Floats, Floats]:
    """Returns standard error and degrees of freedom of a mean of independent estimates (Satterthwaite 1946).

    Args:
        variance: (g, ...) of the g estimates.
        dof: (g, ...) of the variances.
    """
    total, below = variance.sum(axis=0), (variance**2 / dof).sum(axis=0)
    freedom = np.divide(total**2, below, out=np.broadcast_to(dof, variance.shape).sum(axis=0), where=below > 0)
    return np.sqrt(total) / len(variance), freedom


def by_block(groups: Sequence[BlockScores]) -> tuple[Floats, Floats]:
    """Returns standard error and degrees of freedom of a mean of estimates whose blocks are shared.

    Args:
        groups: The g groups' scores; `values` (b,), or (b, s) for s response vectors at once, with `pooled` (s,).
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(name for group in groups for name in group.blocks))}
    scores = np.zeros((len(names), *np.shape(groups[0].values)[1:]))
    gram = np.zeros((len(names), len(names)))
    for group in groups:
        place = [names[name] for name in group.blocks]
        scores[place] += group.values
        gram[np.ix_(place, place)] += group.gram
    variance = (scores**2).sum(axis=0) + sum(group.borrowed * group.pooled for group in groups)
    borrowed, residual = sum(group.borrowed for group in groups), sum(group.dof for group in groups)
    dof = freedom(np.asarray(gram.trace()), np.asarray((gram**2).sum()), np.asarray(borrowed), residual)
    return np.sqrt(variance) / len(groups), dof
