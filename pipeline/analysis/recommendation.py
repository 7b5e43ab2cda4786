"""The recommendation: the fastest cell that is not inferior in accuracy and fits the memory limit."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, OFF, text
from pipeline.analysis.linear import Floats
from pipeline.analysis.verdicts import PAYS
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
        ratio, low, high: Training time against baseline as measured; NaN for baseline.
        expected: The same, shrunk (see `shrink`), since the fastest of several looks too fast.
        compared: Number of cells that it is the fastest of.
        reason: Why this cell, in one or two sentences.
    """

    model: str
    dataset: str
    cell: str
    set_line: str
    ratio: float
    low: float
    high: float
    expected: float
    compared: int
    reason: str

    @property
    def numbers(self) -> str:
        """The ratio as measured, and what to expect of it."""
        said = f"measured {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        if self.compared > 2:
            return f"{said}; expect {self.expected:.3f}, shrunk because it is the best of {self.compared}"
        return said + (f", the best of {self.compared}, too few to shrink it" if self.compared > 1 else "")


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


def shrink(log_ratio: ArrayLike, se: ArrayLike) -> Floats:
    """Shrinks the log ratios of cells to their baseline: the best of several looks better than it is.

    The positive-part rule of Efron and Morris (1975, JASA 70, 311-319) for the k cells and the baseline, whose means
    have independent errors while the ratios share the baseline's: each keeps `1 - (k + 1 - 3) v / S` of its distance
    from the mean of all, not below zero, and so does a ratio, the distance between two. S is the sum of the squared
    distances, v the error of one mean: half the mean square of the ratios' errors.

    Args:
        log_ratio: (k, ...) logarithms of the ratios; below 3 cells the rule has nothing to go by and keeps them.
        se: (k, ...) their standard errors.

    Examples:
        Cells that differ by little more than their errors, and cells that really differ.

        >>> shrink([-0.05, -0.01, 0.0, 0.01, 0.0], [0.02] * 5).round(3).tolist()
        [-0.037, -0.007, 0.0, 0.007, 0.0]
        >>> shrink([-0.5, -0.2, -0.1, 0.0, 0.1], [0.02] * 5).round(3).tolist()
        [-0.499, -0.199, -0.1, 0.0, 0.1]
    """
    log, error = np.asarray(log_ratio, dtype=float), np.asarray(se, dtype=float)
    noise = max(len(log) - 2, 0) * (error**2).mean(axis=0) / 2
    total = (log**2).sum(axis=0) - log.sum(axis=0) ** 2 / (len(log) + 1)  # the baseline's own log ratio is 0
    lost = np.divide(noise, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(np.maximum(1.0 - lost, 0.0) * log)


def _eligible(
    cells: pd.DataFrame, margin: float, memory_limit_mib: float | None
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Keeps the cells that pay in time, are shown non-inferior and within memory.

    Returns:
        Those, all that have a time beside the baseline's, and words for what was left out and why.
    """
    time, accuracy, memory = (
        cells[cells["response"].eq(r)] for r in ("train_seconds", "accuracy", "gpu_peak_allocated_mib")
    )
    time = time[time["se"].notna()]
    faster = time[time["verdict"].eq(PAYS)]
    usable, said = faster, []
    if len(accuracy):
        usable = usable[usable["cell"].isin(accuracy.loc[accuracy["non_inferior"].eq(True), "cell"])]
        said += _left_out(len(faster) - len(usable), f"not shown to be within {margin:g} points of accuracy")
    if memory_limit_mib is not None:
        lean = usable[usable["cell"].isin(memory.loc[memory["mean"].le(memory_limit_mib), "cell"])]
        said += _left_out(len(usable) - len(lean), f"over the memory limit of {memory_limit_mib:g} MiB")
        usable = lean
    return usable, time, "; left out: " + ", ".join(said) if said else ""


def _left_out(count: int, why: str) -> list[str]:
    return [f"{count} faster cells {why}"] if count else []


def recommend(effects: Effects, study: StudyData, memory_limit_mib: float | None = None) -> list[Recommendation]:
    """Recommends one cell per model and dataset.

    A cell is eligible when it pays in training time (Holm-corrected over all cells of all groups), its accuracy is
    shown non-inferior (one-sided test within the stated margin; skipped where no accuracy was measured) and its mean
    peak memory is within the limit. The fastest by its estimate wins; as the best of several it is expected to be as
    fast as its shrunk ratio says.

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
        excluded = useless | effects.not_engaged.get((model, dataset), {}).keys()
        faster, compared, left_out = _eligible(cells[~cells["cell"].isin(excluded)], margin, memory_limit_mib)
        if faster.empty:
            reason = f"No cell is shown to be faster than the baseline without losing accuracy{left_out}."
            found.append(Recommendation(model, dataset, BASELINE, "", nan, nan, nan, nan, 0, reason))
            continue
        best = faster.sort_values("estimate").iloc[0]
        cell, measured = str(best["cell"]), (float(best["estimate"]), float(best["low"]), float(best["high"]))
        shrunk = shrink(np.log(compared["estimate"].to_numpy(dtype=float)), compared["se"].to_numpy(dtype=float))
        expected = math.exp(shrunk[compared["cell"].eq(cell)].item())
        judged = cells["response"].eq("accuracy").any()
        points = f"{margin:g} point{'' if margin == 1 else 's'}"
        tail = f"accuracy within {points} of the baseline's" if judged else "accuracy was not measured"
        line = _set_line(finished.get_group(key), known, cell)
        advice = Recommendation(model, dataset, cell, line, *measured, expected, len(compared), "")
        reason = f"The fastest eligible cell, training time over the baseline's {advice.numbers}; {tail}{left_out}."
        found.append(replace(advice, reason=reason))
    return found
