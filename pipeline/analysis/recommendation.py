"""The recommendation: the fastest cell that is not inferior in accuracy and fits the memory limit."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import pandas as pd

from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, OFF, text
from pipeline.design.names import RECIPE_PARAM
from pipeline.tracking.study_data import StudyData

_PREFIX = f"params.{RECIPE_PARAM}"


@dataclass(frozen=True)
class Recommendation:
    """What to run for one model and dataset.

    Attributes:
        model, dataset: The group.
        cell: The recommended cell; `baseline` where nothing was shown to be better.
        set_line: `--set FIELD=VALUE ...`, or `--techniques ...` where the store has no recipe; empty for
            baseline.
        ratio, low, high: Training time against baseline; NaN for baseline.
        reason: Why this cell, in one or two sentences.
    """

    model: str
    dataset: str
    cell: str
    set_line: str
    ratio: float
    low: float
    high: float
    reason: str


def recipes(study: StudyData) -> dict[str, dict[str, str]]:
    """Returns the recipe fields of every run, by run id; a field that was not recorded is empty text."""
    runs = study.runs
    names = sorted(str(c) for c in runs.columns if str(c).startswith(_PREFIX))
    fields = {name[len(_PREFIX) :]: text(runs, name).tolist() for name in names}
    ids = text(runs, "run_id")
    return {run: {f: v[i] for f, v in fields.items()} for i, run in enumerate(ids)}


def recipe_changes(chosen: dict[str, str], baseline: dict[str, str]) -> dict[str, str]:
    """Returns the recipe fields, with values, in which a run differs from a baseline run of the same block."""
    return {field: value for field, value in chosen.items() if value and value != baseline.get(field)}


def _set_line(group: pd.DataFrame, known: dict[str, dict[str, str]], cell: str) -> str:
    """Writes a cell as flags that can be pasted after `ablate run`."""
    chosen, base = group[group["cell"].eq(cell)], group[group["cell"].eq(BASELINE)]
    if len(chosen) and len(base):
        shared = [b for b in chosen["block"] if b in set(base["block"])]
        mine = chosen[chosen["block"].eq(shared[0])] if shared else chosen
        other = base[base["block"].eq(shared[0])] if shared else base
        changes = recipe_changes(known[mine["run_id"].iloc[0]], known[other["run_id"].iloc[0]])
        if changes:
            return " ".join(f"--set {shlex.quote(f'{field}={value}')}" for field, value in changes.items())
    names = [part.split("=")[0] for part in cell.split("+")]
    levels = [f"--technique {shlex.quote(part)}" for part in cell.split("+") if "=" in part]
    return " ".join([f"--techniques {shlex.quote(','.join(names))}", *levels])


def _eligible(cells: pd.DataFrame, options_margin: float, memory_limit_mib: float | None) -> tuple[pd.DataFrame, str]:
    """Keeps the cells shown faster, shown non-inferior and within memory; says what was left out and why."""
    slow, accuracy, memory = (
        {row[0]: row[1:] for row in part[["cell", "high", "mean", "non_inferior"]].itertuples(index=False, name=None)}
        for part in (cells[cells["response"].eq(r)] for r in ("train_seconds", "accuracy", "gpu_peak_allocated_mib"))
    )
    keep, dropped = [], {"accuracy": 0, "memory": 0}
    for cell, (high, _, _) in slow.items():
        if cell == BASELINE or not high < 1:
            continue
        if accuracy and not (cell in accuracy and accuracy[cell][2] is True):
            dropped["accuracy"] += 1
        elif memory_limit_mib is not None and not (cell in memory and memory[cell][1] <= memory_limit_mib):
            dropped["memory"] += 1
        else:
            keep.append(cell)
    said = []
    if dropped["accuracy"]:
        said.append(f"{dropped['accuracy']} faster cells not shown to be within {options_margin:g} points of accuracy")
    if dropped["memory"]:
        said.append(f"{dropped['memory']} faster cells over the memory limit of {memory_limit_mib:g} MiB")
    time = cells[cells["response"].eq("train_seconds") & cells["cell"].isin(keep)]
    return time.sort_values("estimate"), "; left out: " + ", ".join(said) if said else ""


def recommend(effects: Effects, study: StudyData, memory_limit_mib: float | None = None) -> list[Recommendation]:
    """Recommends one cell per model and dataset.

    A cell is eligible when its whole interval of the training time lies below the baseline's, its accuracy is
    shown non-inferior (one-sided test within the stated margin; skipped where no accuracy was measured) and
    its mean peak memory is within the limit. The fastest by its estimate wins; picking the best of several is
    mildly optimistic.

    Args:
        effects: The estimates.
        study: The study as stored, for the recipe fields.
        memory_limit_mib: Largest peak GPU memory; None for no limit.

    Returns:
        One recommendation per group with a finished run.
    """
    found = []
    nan = float("nan")
    margin = effects.options.accuracy_margin_points
    runs = effects.study.runs
    inert = pd.Series(False, index=runs.index)
    for name in effects.inert & {f.name for f in effects.study.factors}:
        inert |= runs[f"level.{name}"].ne(OFF)
    useless = set(runs.loc[inert, "cell"])  # a technique that does nothing here is not recommended
    finished = runs[runs["outcome"].eq("finished")].groupby(["model", "dataset"], sort=False)
    known = recipes(study)
    for key, cells in effects.cells.groupby(["model", "dataset"], sort=False):
        model, dataset = str(key[0]), str(key[1])
        faster, left_out = _eligible(cells[~cells["cell"].isin(useless)], margin, memory_limit_mib)
        if faster.empty:
            reason = f"No cell is shown to be faster than the baseline without losing accuracy{left_out}."
            found.append(Recommendation(model, dataset, BASELINE, "", nan, nan, nan, reason))
            continue
        best = faster.iloc[0]
        judged = cells["response"].eq("accuracy").any()
        points = f"{margin:g} point{'' if margin == 1 else 's'}"
        tail = f"accuracy within {points} of the baseline's" if judged else "accuracy was not measured"
        share = f"{100 * best['estimate']:.1f} %"
        reason = f"The fastest eligible cell: training takes {share} of the baseline's time, {tail}"
        line = _set_line(finished.get_group(key), known, str(best["cell"]))
        numbers = (float(best["estimate"]), float(best["low"]), float(best["high"]))
        found.append(Recommendation(model, dataset, str(best["cell"]), line, *numbers, reason + left_out + "."))
    return found
