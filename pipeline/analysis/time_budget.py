"""Why a technique pays or not: what bounds a cell, and what that leaves for each technique to save.

From the time budget of a step. Device times of CUDA events enclose the gaps between kernels, so they alone cannot
tell arithmetic from launching; where the run measured what part of them only kept up with the host's launches, that
part counts as launching.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.analysis.anchors import anchors
from pipeline.analysis.ceilings import bf16_reason, ceiling, sentence
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, Factor
from pipeline.analysis.verdicts import COSTS
from pipeline.design.names import BUDGET_PHASES, COMPUTE_PHASES, DATA_WAIT, H2D, IDLE
from pipeline.design.techniques import TECHNIQUES


@dataclass(frozen=True)
class Budget:
    """The time budget of one cell.

    Attributes:
        model, dataset, cell: The cell.
        shares: Phase -> fraction of the step; phases that were not measured are absent.
        launch_bound: The fraction of forward, backward and optimizer in which the device only kept up with the
            host's kernel launches; None where it was not measured (CPU, older stores).
        parts: What can bound a step -> its fraction: data, copy, compute, and launch (idle time included) where
            `launch_bound` is known, else idle.
        bound: The largest part.
        bound_share: Its share.
        mfu: Model FLOPs utilisation, fraction of the data sheet's peak; None where FLOPs or peak are unknown.
    """

    model: str
    dataset: str
    cell: str
    shares: dict[str, float]
    launch_bound: float | None
    parts: dict[str, float]
    bound: str
    bound_share: float
    mfu: float | None


@dataclass(frozen=True)
class Reason:
    """Why one technique pays or not, in one model and dataset.

    Attributes:
        model, dataset, technique: What it is about.
        ceiling: Largest fraction of the time that the technique can save; None if unknown.
        sentence: The same in words, with what was measured.
    """

    model: str
    dataset: str
    technique: str
    ceiling: float | None
    sentence: str


def parts(shares: Mapping[str, float], launch_bound: float | None) -> dict[str, float]:
    """Sums the phases to what can bound a step.

    Idle time is time of no phase. What it is spent on is known with `launch_bound` only: CUDA events leave no
    other gap than those in which the device waits for the host.
    """
    compute = sum(shares.get(phase, 0.0) for phase in COMPUTE_PHASES)
    found = {"data": shares.get(DATA_WAIT, 0.0), "copy": shares.get(H2D, 0.0)}
    idle = shares.get(IDLE, 0.0)
    if launch_bound is None:
        return found | {"compute": compute, IDLE: idle}
    return found | {"compute": compute * (1.0 - launch_bound), "launch": idle + compute * launch_bound}


def budgets(effects: Effects) -> list[Budget]:
    """Computes the time budget of every cell that has one: mean seconds per phase over its runs, as shares."""
    runs = effects.study.runs
    runs = runs[runs["outcome"].eq("finished")]
    keys = ["model", "dataset", "cell"]
    columns = {phase: f"budget.{phase}" for phase in BUDGET_PHASES}
    # what is no fraction was not measured as one
    runs = runs.assign(launch_bound=runs["launch_bound"].where(runs["launch_bound"].between(0, 1)))
    means = runs.groupby(keys, sort=False)[[*columns.values(), "launch_bound"]].mean()
    used = {(a.model, a.dataset, a.cell): a.of_peak for a in anchors(effects)}
    found = []
    for row in means.reset_index().to_dict("records"):
        seconds = {phase: row[c] for phase, c in columns.items() if not math.isnan(row[c])}
        total = sum(seconds.values())
        if total <= 0:
            continue
        shares = {phase: value / total for phase, value in seconds.items()}
        launch_bound = None if math.isnan(row["launch_bound"]) else float(row["launch_bound"])
        split = parts(shares, launch_bound)
        bound = max(split, key=lambda name: split[name])
        cell = (str(row["model"]), str(row["dataset"]), str(row["cell"]))
        found.append(Budget(*cell, shares, launch_bound, split, bound, split[bound], used.get(cell)))
    return found


def reasons(effects: Effects, cells: list[Budget]) -> list[Reason]:
    """Explains every technique in every model and dataset.

    The ceiling is of the baseline's budget, so what is measured beside it is the technique alone against the baseline;
    its main effect, an average over the other techniques' budgets, only where there is no other.

    Args:
        effects: The estimates.
        cells: The time budgets of its cells.

    Returns:
        One reason per technique (and level) and group, in the order of the study.
    """
    baseline = {(b.model, b.dataset): b for b in cells if b.cell == BASELINE}
    table = effects.table
    if table.empty:
        return []
    known = table[table["response"].eq("train_seconds") & table["estimate"].notna()]
    measured = {
        (r["model"], r["dataset"], r["term"]): r
        for kind in ("main", "simple")
        for r in known[known["kind"].eq(kind)].to_dict("records")
    }
    result = []
    instructions = _cpu_bf16(effects.study.runs)
    groups = effects.study.runs[["model", "dataset"]].drop_duplicates()
    for model, dataset in groups.itertuples(index=False, name=None):
        budget = baseline.get((model, dataset))
        for factor in effects.study.factors:
            for level in factor.levels:
                bf16 = instructions.get((str(model), str(dataset), factor.term(level)), "")
                result.append(_reason(effects, (str(model), str(dataset)), factor, level, budget, measured, bf16))
    return result


def _reason(
    effects: Effects,
    group: tuple[str, str],
    factor: Factor,
    level: str,
    budget: Budget | None,
    measured: Mapping[tuple[Any, Any, Any], Mapping[Any, Any]],
    bf16: str,
) -> Reason:
    """Explains one technique at one level."""
    term = factor.term(level)
    shares, launch_bound = (budget.shares, budget.launch_bound) if budget else ({}, None)
    limit = ceiling(factor.name, shares, level, launch_bound)
    control = factor.name in effects.inert
    if control:
        limit = 0.0
    launching = budget.bound_share if budget and budget.bound == "launch" else None
    row = measured.get((*group, term))
    if why := effects.not_engaged.get(group, {}).get(term, {}).get(term):  # the ceiling is that of the technique alone
        return Reason(*group, term, 0.0, f"{term}: it did not act here: {why}.")
    why = bf16_reason(bf16, row is not None and row["verdict"] == COSTS)
    return Reason(*group, term, limit, sentence(factor.name, term, limit, control, row, launching, why))


def _cpu_bf16(runs: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """(model, data set, cell) that CPUs ran in bf16 -> their instructions for it, where these do not differ."""
    mine = runs[runs["precision"].eq("bf16") & runs["device"].str.startswith("cpu")]
    found: dict[tuple[str, str, str], set[str]] = {}
    for model, dataset, cell, known in mine[["model", "dataset", "cell", "cpu_bf16"]].itertuples(index=False):
        found.setdefault((str(model), str(dataset), str(cell)), set()).add(str(known))
    return {key: known.pop() for key, known in found.items() if len(known) == 1}


def batchnorm_models(effects: Effects) -> list[str]:
    """Names the models with BatchNorm in a study with accumulation: its statistics are those of the micro-batch."""
    runs = effects.study.runs
    names = (factor.name for factor in effects.study.factors if factor.levels)
    if not any("accumulation_steps" in TECHNIQUES[name].owns for name in names if name in TECHNIQUES):
        return []
    return sorted(set(runs.loc[runs["batchnorm"].eq("true"), "model"]))
