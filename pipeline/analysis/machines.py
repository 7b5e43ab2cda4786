"""The next machine: effects on the training time where a study's blocks ran on several GPUs or hosts.

The table's intervals speak of the machines that ran: blocks are the sample. Here the machine is a random factor: the
host where a study ran on several, else the GPU. Per effect each complete block that ran wholly on one machine gives one
value, and their means by machine are the sample.
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
        unit: What a machine is here, `host` or `GPU`.
        machines, blocks: How many machines it is known of, by how many blocks.
        left_out: The study's other blocks: incomplete here, or not on one machine.
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
    unit: str
    machines: int
    blocks: int
    left_out: tuple[str, ...]
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
    machines and noise and equally many blocks on each (Hahn and Meeker, Statistical Intervals, 1991); too wide for a
    machine with the average number of blocks where their numbers differ.

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


def _located(runs: pd.DataFrame) -> tuple[pd.Series, str]:
    """Returns the machine of each finished run, and what a machine is: the host where there are several, else the GPU.

    GPUs of one host share its processor, driver and cooling: they are no independent sample, the hosts are. Hosts with
    a GPU in common are one: a container's name is new each time.
    """
    done = runs[runs["outcome"].eq("finished")]
    last, host = done["machine"], done["host"]
    while not host.equals(last):
        last, host = host, host.groupby(done["machine"]).transform("min").groupby(done["host"]).transform("min")
    return (host, "host") if host.nunique() > 1 else (done["machine"], "GPU")


def _blocks(study: Tidy, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the effects of one (model, data set) in each complete block on one machine: index machine and block."""
    active = [f for f in study.factors if runs[f"level.{f.name}"].ne(OFF).any()]
    names = [f"level.{f.name}" for f in active]
    done = runs[runs["train_seconds"].gt(0) & runs["outcome"].eq("finished")]
    if not active or done.empty:
        return pd.DataFrame()
    planned = sorted(set(runs[names].itertuples(index=False, name=None)))
    logs = np.log(done.set_index(["block", *names])["train_seconds"]).unstack(names).dropna()
    cells = [cell if isinstance(cell, tuple) else (cell,) for cell in logs.columns]
    found = [c for c in build_contrasts(cells, planned, active) if c.kind in KINDS and c.weights is not None]
    machine = done.groupby("block")["machine"].agg(["first", "nunique"]).loc[logs.index]
    machine, logs = machine[machine["nunique"].eq(1)], logs[machine["nunique"].eq(1)]
    index = pd.MultiIndex.from_arrays([machine["first"], logs.index], names=["machine", "block"])
    return pd.DataFrame({(c.kind, c.term): logs.to_numpy() @ c.weights for c in found}, index=index)


def next_machine(effects: Effects) -> list[NextMachine]:
    """Says of every effect on the training time what it is on the next machine.

    Args:
        effects: The estimates.

    Returns:
        One entry an effect, the average over all groups first; empty where complete blocks ran on fewer than two
        machines.
    """
    machine, unit = _located(effects.study.runs)
    if machine.nunique() < 2:
        return []
    runs = effects.study.runs.assign(machine=machine)
    groups = {(str(m), str(d)): _blocks(effects.study, part) for (m, d), part in runs.groupby(["model", "dataset"])}
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
        others = set(runs["block"]) - set(values.index.get_level_values("block"))
        left_out = tuple(sorted(others, key=lambda block: (len(block), block)))
        means = values.groupby(level="machine").mean().to_numpy()
        if len(means) < 2:
            continue
        predicted = np.array(next_interval(means, effects.options.confidence)).T.tolist()
        machines = values.index.get_level_values("machine").factorize()[0]
        for column, series, (mean, half) in zip(values.columns, values.to_numpy().T, predicted, strict=True):
            at = (*key, str(column[0]), str(column[1]))
            if at in known:
                these: tuple[float, float, float] = known[at]
                # another machine is not known better than these, however close their few means lie by chance
                half = np.maximum(half, np.nan_to_num(math.log(these[2] / these[1]) / 2))
                middle, low, high = np.exp([mean, mean - half, mean + half]).tolist()
                spread = math.exp(math.sqrt(component(series, machines)))
                counted = (unit, len(means), len(series), left_out)
                found.append(NextMachine(*at, *counted, *these, middle, low, high, spread))
    return found


def mixed_blocks(study: Tidy) -> list[str]:
    """Names the blocks that ran on several GPUs or hosts: their comparisons carry what differs between these."""
    runs = study.runs[study.runs["outcome"].eq("finished")]
    machines = runs.groupby(["model", "dataset", "block"])["machine"].nunique()
    return list(dict.fromkeys(machines.index.get_level_values("block")[machines > 1]))
