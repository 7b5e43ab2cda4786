"""The next machine: effects on the training time where a study's blocks ran on several GPUs or hosts.

The table's intervals speak of the machines that ran: blocks are the sample. Here the machine is a random factor. Per
effect each block that ran wholly on one machine gives one value, and their means by machine are the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.analysis import student_t
from pipeline.analysis.contrasts import build_contrasts
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import OFF, Tidy
from pipeline.analysis.linear import Floats
from pipeline.analysis.pooling import ALL

KINDS = ("main", "simple", "combined")
LEAST = 3  # machines: with two the t quantile is 12.7, which says nothing


@dataclass(frozen=True)
class NextMachine:
    """One effect on the training time, for these machines and for the next.

    Attributes:
        model, dataset, kind, term: The effect.
        machines, blocks: How many machines it is known of, by how many blocks.
        estimate, low, high: The table's ratio with its interval: these machines.
        next_estimate, next_low, next_high: Mean over machines, with the interval for the next one; the ends are NaN
            below `LEAST` machines.
        spread: Standard deviation of the effect between machines, as a ratio (1.02 is 2 %), by analysis of variance
            (Searle, Linear Models, 1971), at least 1; NaN where no machine has two blocks.
    """

    model: str
    dataset: str
    kind: str
    term: str
    machines: int
    blocks: int
    estimate: float
    low: float
    high: float
    next_estimate: float
    next_low: float
    next_high: float
    spread: float


def component(values: Floats, machine: Floats) -> float:
    """Estimates the variance between machines by one-way analysis of variance, at least 0.

    Args:
        values: (b,) one value a block.
        machine: (b,) which machine each block ran on.

    Examples:
        Means of 1 and 3 of two blocks each: a mean square of 4 between, of 0.5 within.

        >>> component(np.array([0.5, 1.5, 2.5, 3.5]), np.array([0, 0, 1, 1]))
        1.75
    """
    groups = [values[machine == m] for m in np.unique(machine)]
    sizes = np.array([len(group) for group in groups], dtype=float)
    n, m = sizes.sum(), len(groups)
    if n == m or m < 2:
        return math.nan
    between = sum(len(g) * (g.mean() - values.mean()) ** 2 for g in groups) / (m - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (n - m)
    return max(0.0, float((between - within) * (m - 1) / (n - (sizes**2).sum() / n)))


def next_interval(means: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Predicts the mean of as many blocks on another machine of the kind: mean and half the interval's width.

    The t prediction interval `mean +- t S sqrt(1 + 1/M)` of M machine means with standard deviation S, exact for normal
    machines and noise and equally many blocks on each (Hahn and Meeker, Statistical Intervals, 1991).

    Args:
        means: (M, ...) one mean a machine.
        confidence: Of the interval.

    Returns:
        Both (...); the half width is NaN below `LEAST` machines.

    Examples:
        >>> mean, half = next_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(mean.item(), 3), round(half.item(), 3)
        (2.0, 4.968)
    """
    count = len(means)
    if count < LEAST:
        return means.mean(axis=0), np.full_like(means.mean(axis=0), np.nan)
    reach = student_t.quantile(0.5 + confidence / 2, count - 1) * math.sqrt(1 + 1 / count)
    return means.mean(axis=0), reach * means.std(axis=0, ddof=1)


def _blocks(study: Tidy, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the effects of one (model, data set) in each complete block on one machine: index machine and block."""
    active = [f for f in study.factors if runs[f"level.{f.name}"].ne(OFF).any()]
    names = [f"level.{f.name}" for f in active]
    runs = runs[runs["train_seconds"].gt(0) & runs["outcome"].eq("finished")]
    alone = runs.groupby("block")["machine"].transform("nunique").eq(1)
    if not active or not alone.any():
        return pd.DataFrame()
    logs = np.log(runs[alone].set_index(["machine", "block", *names])["train_seconds"]).unstack(names).dropna()
    cells = [cell if isinstance(cell, tuple) else (cell,) for cell in logs.columns]
    found = [c for c in build_contrasts(cells, cells, active) if c.kind in KINDS and c.weights is not None]
    return pd.DataFrame({(c.kind, c.term): logs.to_numpy() @ c.weights for c in found}, index=logs.index)


def next_machine(effects: Effects) -> list[NextMachine]:
    """Says of every effect on the training time what it is on the next machine.

    Args:
        effects: The estimates.

    Returns:
        One entry an effect, the average over all groups first; empty where complete blocks ran on fewer than two
        machines.
    """
    study = effects.study
    if study.runs["machine"].nunique() < 2:
        return []
    groups = {(str(m), str(d)): _blocks(study, runs) for (m, d), runs in study.runs.groupby(["model", "dataset"])}
    groups = {key: values for key, values in groups.items() if len(values)}
    if len(groups) > 1:  # blocks that all groups have, on the same machine
        together = pd.concat(groups.values(), keys=range(len(groups))).groupby(level=["machine", "block"])
        counts = together.size().eq(len(groups))
        groups = {(ALL, ALL): together.mean()[counts].dropna(axis=1)} | groups
    table = effects.table[effects.table["response"].eq("train_seconds")]
    names = ["model", "dataset", "kind", "term", "estimate", "low", "high"]
    known = {row[:4]: row[4:7] for row in table[names].itertuples(index=False, name=None)}
    found = []
    for key, values in groups.items():
        for column in values.columns:
            series = values[column]
            means = series.groupby(level="machine").mean()
            at = (*key, str(column[0]), str(column[1]))
            if len(means) > 1 and at in known:
                mean, half = (float(v) for v in next_interval(means.to_numpy(), effects.options.confidence))
                ends = math.exp(mean), math.exp(mean - half), math.exp(mean + half)
                codes = series.index.get_level_values("machine").factorize()[0]
                spread = math.exp(math.sqrt(component(series.to_numpy(), codes)))
                these: tuple[float, float, float] = known[at]
                found.append(NextMachine(*at, len(means), len(series), *these, *ends, spread))
    return found


def mixed_blocks(study: Tidy) -> str:
    """Names the blocks whose comparisons carry a difference between machines; empty where there are none."""
    runs = study.runs[study.runs["outcome"].eq("finished")]
    machines = runs.groupby(["model", "dataset", "block"])["machine"].nunique()
    names = list(dict.fromkeys(machines.index.get_level_values("block")[machines > 1]))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
