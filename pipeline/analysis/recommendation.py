"""The recommendation: the fastest cell that is not inferior in accuracy and fits the memory limit."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pipeline.analysis import verdicts
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, OFF, recipes
from pipeline.analysis.linear import Floats
from pipeline.analysis.verdicts import NO_EFFECT, PAYS
from pipeline.shown import counted
from pipeline.tracking.study_data import StudyData


@dataclass(frozen=True)
class Recommendation:
    """What to run for one model and dataset.

    Attributes:
        model, dataset: The group.
        cell: The recommended cell; `baseline` where nothing was shown to be better.
        set_line: `--set FIELD=VALUE ...`, or `--techniques ...` where the store has no recipe; empty for
            baseline.
        ratio, low, high: Training time against baseline as measured; NaN for baseline. The interval is one of as many
            as cells were compared that hold together (Bonferroni): whichever is chosen, it covers.
        expected: The same, shrunk (see `shrink`), since the fastest of several looks too fast.
        compared: Number of cells that it is the fastest of.
        reason: Why this cell, in one or two sentences.
        fastest: The fastest cell that is shown to be faster, whatever it costs; else the one that was measured
            fastest; empty where none was faster.
        left_out: Why `fastest` is not the recommended one: `accuracy`, `memory`, `not shown`, or empty.
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
    fastest: str = ""
    left_out: str = ""

    @property
    def numbers(self) -> str:
        """The ratio as measured, and what to expect of it."""
        said = f"measured {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        if self.compared > 2:
            return f"{said}; expect {self.expected:.3f}, shrunk because it is the best of {self.compared}"
        return said + (f", the best of {self.compared}, too few to shrink it" if self.compared > 1 else "")


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


def _simultaneous(times: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Widens the intervals of cells so that all of them hold together (Bonferroni)."""
    half = verdicts.half_widths(times["se"], times["dof"], 1 - alpha / max(len(times), 1))
    log = np.log(times["estimate"].to_numpy(dtype=float))
    with np.errstate(over="ignore"):
        return times.assign(low=np.exp(log - half), high=np.exp(log + half))


def _not_inferior(accuracy: pd.DataFrame, candidates: int, alpha: float, margin: float) -> set[str]:
    """Names the cells whose accuracy is within the margin by a one-sided test at `alpha / candidates`."""
    half = verdicts.half_widths(accuracy["se"], accuracy["dof"], 1 - 2 * alpha / max(candidates, 1))
    return set(accuracy.loc[accuracy["estimate"] - half > -margin, "cell"])


@dataclass(frozen=True)
class _Choice:
    """The cells of one group: all that were compared, those shown faster, and those of them that may be used."""

    compared: pd.DataFrame
    faster: pd.DataFrame
    usable: pd.DataFrame
    within: pd.DataFrame


def _choose(cells: pd.DataFrame, effects: Effects, judged: bool, memory_limit_mib: float | None) -> _Choice:
    """Keeps the cells that pay in time, then those shown non-inferior, then those within memory."""
    alpha, margin = effects.options.alpha, effects.options.accuracy_margin_points
    time, accuracy, memory = (
        cells[cells["response"].eq(r)] for r in ("train_seconds", "accuracy", "gpu_peak_allocated_mib")
    )
    compared = time[time["estimate"].notna()]
    tested = _simultaneous(compared[compared["se"].notna()], alpha)
    faster = tested[tested["verdict"].eq(PAYS) & tested["high"].lt(1)]
    within = faster
    if judged:
        within = faster[faster["cell"].isin(_not_inferior(accuracy, len(faster), alpha, margin))]
    usable = within
    if memory_limit_mib is not None:
        usable = within[within["cell"].isin(memory.loc[memory["mean"].le(memory_limit_mib), "cell"])]
    return _Choice(compared, faster, usable, within)


def recommend(effects: Effects, study: StudyData, memory_limit_mib: float | None = None) -> list[Recommendation]:
    """Recommends one cell per model and dataset.

    A cell is eligible when it pays in training time (Holm-corrected over all cells of all groups, and by the interval
    that holds for all cells of its group together), its accuracy is shown non-inferior (one-sided test within the
    stated margin, Bonferroni-corrected over the faster cells; skipped where no accuracy was measured or nothing was
    learned) and its mean peak memory is within the limit. The fastest by its estimate wins; as the best of several it
    is expected to be as fast as its shrunk ratio says.

    Args:
        effects: The estimates.
        study: The study as stored, for the recipe fields.
        memory_limit_mib: Largest peak GPU memory; None for no limit.

    Returns:
        One recommendation per group with a finished run.
    """
    runs = effects.study.runs
    idle = pd.Series(False, index=runs.index)
    for name in effects.idle & {f.name for f in effects.study.factors}:
        idle |= runs[f"level.{name}"].ne(OFF)
    useless = set(runs.loc[idle, "cell"])  # a technique that does nothing to the time is not recommended
    finished = runs[runs["outcome"].eq("finished")].groupby(["model", "dataset"], sort=False)
    known = recipes(study)
    found = []
    for key, cells in effects.cells.groupby(["model", "dataset"], sort=False):
        group = (str(key[0]), str(key[1]))
        excluded = useless | effects.not_engaged.get(group, {}).keys()
        judged = group not in effects.untrained and bool(cells["response"].eq("accuracy").any())
        choice = _choose(cells[~cells["cell"].isin(excluded)], effects, judged, memory_limit_mib)
        if choice.usable.empty:
            found.append(_baseline(group, choice, effects, memory_limit_mib))
            continue
        cell = str(choice.usable.sort_values("estimate").iloc[0]["cell"])
        line = _set_line(finished.get_group(key), known, cell)
        found.append(_advice(group, cell, line, choice, effects, judged, memory_limit_mib))
    return found


def _left_out(choice: _Choice, margin: float, memory_limit_mib: float | None) -> str:
    said = []
    if count := len(choice.faster) - len(choice.within):
        said.append(f"{counted(count, 'faster cell')} not shown to be within {points(margin)} of accuracy")
    if count := len(choice.within) - len(choice.usable):
        said.append(f"{counted(count, 'faster cell')} over the memory limit of {memory_limit_mib:g} MiB")
    return "; left out: " + ", ".join(said) if said else ""


def _fastest(choice: _Choice, chosen: str) -> tuple[str, str]:
    """Names the fastest cell, and why it is not the chosen one."""
    if choice.faster.empty:
        quick = choice.compared[choice.compared["estimate"].lt(1) & choice.compared["verdict"].ne(NO_EFFECT)]
        return ("", "") if quick.empty else (str(quick.sort_values("estimate").iloc[0]["cell"]), "not shown")
    cell = str(choice.faster.sort_values("estimate").iloc[0]["cell"])
    if cell == chosen:
        return cell, ""
    return cell, "accuracy" if cell not in set(choice.within["cell"]) else "memory"


def _baseline(
    group: tuple[str, str], choice: _Choice, effects: Effects, memory_limit_mib: float | None
) -> Recommendation:
    left_out = _left_out(choice, effects.options.accuracy_margin_points, memory_limit_mib)
    reason = f"No cell is shown to be faster than the baseline without losing accuracy{left_out}."
    nan = math.nan
    return Recommendation(*group, BASELINE, "", nan, nan, nan, nan, 0, reason, *_fastest(choice, BASELINE))


def _advice(
    group: tuple[str, str],
    cell: str,
    set_line: str,
    choice: _Choice,
    effects: Effects,
    judged: bool,
    memory_limit_mib: float | None,
) -> Recommendation:
    tested = choice.compared[choice.compared["se"].notna()]
    best = choice.usable[choice.usable["cell"].eq(cell)].iloc[0]
    shrunk = shrink(np.log(tested["estimate"].to_numpy(dtype=float)), tested["se"].to_numpy(dtype=float))
    expected = math.exp(shrunk[tested["cell"].eq(cell)].item())
    margin = effects.options.accuracy_margin_points
    unjudged = effects.untrained.get(group, "accuracy was not measured")
    tail = f"accuracy within {points(margin)} of the baseline's" if judged else str(unjudged)
    measured = (float(best["estimate"]), float(best["low"]), float(best["high"]))
    advice = Recommendation(*group, cell, set_line, *measured, expected, len(tested), "", *_fastest(choice, cell))
    left_out = _left_out(choice, margin, memory_limit_mib)
    reason = f"The fastest eligible cell, training time over the baseline's {advice.numbers}; {tail}{left_out}."
    return replace(advice, reason=reason)


def points(margin: float) -> str:
    """Writes a margin of accuracy: `1 point`, `0.5 points`."""
    return f"{margin:g} point" + ("" if margin == 1 else "s")
