"""Why a technique pays or not: what bounds a cell, the most that each technique could save, device
utilisation.

From the time budget of a step. A technique can save no more than the share of the step that it acts on
(Amdahl 1967); the ceilings below name that share for each technique.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.analysis.devices import peak_flops
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, BUDGET_PHASES, Factor

PARTS: Mapping[str, tuple[str, ...]] = {
    "data": ("data_wait",),
    "copy": ("h2d",),
    "compute": ("forward", "backward", "optimizer"),
    "launch": ("idle",),
}
_PHASE_WORDS = {
    "data_wait": "waiting for data",
    "h2d": "copies",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer",
    "idle": "launch gaps",
}
_MATH = ("forward", "backward")
# What each technique acts on. ga is apart (it skips a known part of the optimizer's work); ga_fixed keeps
# the work.
CEILINGS: Mapping[str, tuple[str, ...]] = {
    "pm": ("h2d",),
    "pin_only": ("h2d",),
    "non_blocking_only": ("h2d",),
    "device_data": ("data_wait", "h2d"),
    "amp": _MATH,
    "bf16": _MATH,
    "fp16": _MATH,
    "tf32": _MATH,
    "channels_last": _MATH,
    "compile": (*_MATH, "optimizer", "idle"),
    "fused": ("optimizer", "idle"),
    "ga": ("optimizer", "idle"),
    "ga_fixed": (),
}


@dataclass(frozen=True)
class Budget:
    """The time budget of one cell.

    Attributes:
        model, dataset, cell: The cell.
        shares: Phase -> fraction of the step; phases that were not measured are absent.
        bound: data, copy, compute or launch: the part with the largest share.
        bound_share: Its share.
        mfu: Model FLOPs utilisation, fraction of the device's peak; None where FLOPs or peak are unknown.
    """

    model: str
    dataset: str
    cell: str
    shares: dict[str, float]
    bound: str
    bound_share: float
    mfu: float | None


@dataclass(frozen=True)
class Reason:
    """One technique in one model and dataset: its ceiling (largest fraction of time it can save) and the
    sentence.
    """

    model: str
    dataset: str
    technique: str
    ceiling: float | None
    sentence: str


def _utilisation(runs: pd.DataFrame) -> pd.Series:
    """Give each run's model FLOPs utilisation: FLOPs/image x images/s / peak; NaN where unknown."""
    names = list(zip(runs["gpu_name"], runs["precision"], strict=True))
    peaks = {key: peak_flops(key[0], key[1] or "fp32") for key in set(names)}
    peak = pd.Series([peaks[key] for key in names], index=runs.index, dtype=float)
    return runs["images_per_second"] * runs["flops_per_image"] / peak


def budgets(effects: Effects) -> list[Budget]:
    """Compute the time budget of every cell that has one: mean seconds per phase over its runs, as shares."""
    runs = effects.study.runs
    runs = runs[runs["outcome"].eq("finished")]
    keys = ["model", "dataset", "cell"]
    columns = {phase: f"budget.{phase}" for phase in BUDGET_PHASES}
    means = runs.assign(mfu=_utilisation(runs)).groupby(keys, sort=False)[[*columns.values(), "mfu"]].mean()
    found = []
    for row in means.reset_index().to_dict("records"):
        seconds = {phase: row[c] for phase, c in columns.items() if not math.isnan(row[c])}
        total = sum(seconds.values())
        if total <= 0:
            continue
        shares = {phase: value / total for phase, value in seconds.items()}
        parts = {name: sum(shares.get(p, 0.0) for p in phases) for name, phases in PARTS.items()}
        bound = max(parts, key=lambda name: parts[name])
        mfu = None if math.isnan(row["mfu"]) else float(row["mfu"])
        found.append(Budget(row["model"], row["dataset"], row["cell"], shares, bound, parts[bound], mfu))
    return found


def ceiling(technique: str, shares: Mapping[str, float], level: str = "2") -> float | None:
    """Give the largest fraction of the time that a technique could save, from the budget without it.

    Accumulating over n micro-batches runs the optimizer once instead of n times, so it can save 1 - 1/n of
    its share and of the launch gaps around it; all others are bounded by the whole share of the phases they
    act on.

    Args:
        technique: Its name.
        shares: Phase -> share of the step.
        level: The accumulation factor for ``ga``; "on" means 2, the first study's value.

    Returns:
        A fraction; None for a technique whose phases are not known or were not measured.
    """
    phases = CEILINGS.get(technique)
    if phases is None or any(phase not in shares for phase in phases if phase != "idle"):
        return None
    share = sum(shares.get(phase, 0.0) for phase in phases)
    if technique == "ga":
        try:
            count = float(level)
        except ValueError:
            count = 2.0
        return share * (1.0 - 1.0 / max(count, 1.0))
    return share


def _pct(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _measured(row: Mapping[Any, Any]) -> str:
    """Put a measured simple or main effect on time in words."""
    change = 100 * (1 - float(row["estimate"]))
    word = "saved" if change >= 0 else "cost"
    if math.isnan(float(row["low"])):
        return f"measured: it {word} {abs(change):.1f} % of the time (no interval: not replicated)"
    ends = sorted((100 * (1 - float(row["high"])), 100 * (1 - float(row["low"]))))
    span = f"interval of the saving {ends[0]:.1f} to {ends[1]:.1f} %"
    return f"measured: it {word} {abs(change):.1f} % of the time ({span})"


def _sentence(technique: str, term: str, limit: float | None, control: bool, row: Mapping[Any, Any] | None) -> str:
    """Write the one plain sentence about a technique in one model and dataset."""
    tail = f"; {_measured(row)}" if row is not None and not math.isnan(float(row["estimate"])) else ""
    if control:
        return f"{term}: an A/A control here, because it does nothing on this device{tail}."
    if limit is None:
        return f"{term}: no time budget says how much it could save{tail}."
    phases = CEILINGS[technique]
    if not phases:
        return f"{term}: it leaves the work of a step as it is, so it cannot save time; it lowers memory{tail}."
    words = " and ".join(_PHASE_WORDS[p] for p in phases if p != "idle" or len(phases) == 1)
    verb = "is" if len(phases) - ("idle" in phases and len(phases) > 1) == 1 and words.startswith("the") else "are"
    if technique == "ga":
        return f"{term}: fewer optimizer steps can save {_pct(limit)} of the step at most here{tail}."
    if "idle" in phases:
        words += " with launch gaps"
    share = _pct(limit)
    return f"{term}: {words} {verb} {share} of the step, so it cannot save more than {share} here{tail}."


def reasons(effects: Effects, found: list[Budget]) -> list[Reason]:
    """Explain every technique in every model and dataset.

    Args:
        effects: The estimates.
        found: From :func:`budgets`.

    Returns:
        One reason per technique (and level) and group, in the order of the study.
    """
    baseline = {(b.model, b.dataset): b for b in found if b.cell == BASELINE}
    table = effects.table
    if table.empty:
        return []
    mains = table[table["response"].eq("train_seconds") & table["kind"].eq("main")]
    measured = {(r["model"], r["dataset"], r["term"]): r for r in mains.to_dict("records")}
    result = []
    groups = effects.study.runs[["model", "dataset"]].drop_duplicates()
    for model, dataset in groups.itertuples(index=False, name=None):
        shares = baseline[model, dataset].shares if (model, dataset) in baseline else {}
        for factor in effects.study.factors:
            for level in factor.levels:
                result.append(_reason(effects, str(model), str(dataset), factor, level, shares, measured))
    return result


def _reason(
    effects: Effects,
    model: str,
    dataset: str,
    factor: Factor,
    level: str,
    shares: Mapping[str, float],
    measured: Mapping[tuple[Any, Any, Any], Mapping[Any, Any]],
) -> Reason:
    """Explain one technique at one level."""
    term = factor.term(level)
    limit = ceiling(factor.name, shares, level) if shares else None
    control = factor.name in effects.inert
    if control:
        limit = 0.0
    row = measured.get((model, dataset, term))
    return Reason(model, dataset, term, limit, _sentence(factor.name, term, limit, control, row))


def batchnorm_models(effects: Effects) -> list[str]:
    """Name the models with BatchNorm: under gradient accumulation its statistics are those of the
    micro-batch.
    """
    runs = effects.study.runs
    return sorted(set(runs.loc[runs["batchnorm"].eq("true"), "model"]))
