"""Can the numbers be trusted? Drift over the run order, the A/A spread, sentinel baselines, tainted runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis import student_t
from pipeline.analysis.frame import OFF, Tidy


@dataclass(frozen=True)
class Estimate:
    """A ratio with its 95 % interval.

    Attributes:
        value: The ratio.
        low, high: Ends of the interval; NaN where there are too few runs for one.
        runs: Runs, or pairs of runs, that it is made from.
    """

    value: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Trust:
    """What the trust gates found.

    Attributes:
        order: Finished runs in run order: run_id, block, position, start, model, dataset, cell, deviation
            (log of the training time over what its cell and block predict), tainted.
        drift: Growth of the training time from the first to the last run of a block, as a ratio; None if
            unknown.
        drift_by_block: The same for each block.
        control: Ratio on / off of the A/A controls, pairs within block and setting; None without controls.
        control_spread: Standard deviation of the log ratios of A/A pairs: the noise of a single paired
            comparison.
        control_low, control_high: The range that holds 95 % of single A/A ratios (normal theory).
        sentinel: Last over first sentinel baseline within blocks; None without sentinels.
        sentinel_spread: Coefficient of variation of sentinels within one model, dataset and block.
        tainted: Tainted runs still in the analysis: run_id, name, block, reason.
        alarms: Plain sentences, one per finding that should stop a reader.
    """

    order: pd.DataFrame
    drift: Estimate | None
    drift_by_block: dict[str, Estimate]
    control: Estimate | None
    control_spread: float
    control_low: float
    control_high: float
    sentinel: Estimate | None
    sentinel_spread: float
    tainted: pd.DataFrame
    alarms: tuple[str, ...]


def _mean_ratio(logs: NDArray[np.float64]) -> Estimate | None:
    """Summarises log ratios by their mean and its t interval, as ratios."""
    if not len(logs):
        return None
    mean, low, high = student_t.mean_interval(logs)
    return Estimate(math.exp(mean), math.exp(low), math.exp(high), len(logs))


def run_order(study: Tidy) -> pd.DataFrame:
    """Lists finished runs in run order with each one's deviation from its cell and block (log training time).

    The deviation is the residual of an additive cell + block fit by two sweeps of means, exact for balanced
    studies; a cell that ran once has none and is left out.
    """
    runs = study.runs[study.runs["outcome"].eq("finished") & study.runs["train_seconds"].gt(0)].copy()
    runs["deviation"] = np.log(runs["train_seconds"])
    group = ["model", "dataset"]
    repeats = runs.groupby([*group, "cell"])["deviation"].transform("size")
    runs = runs[repeats > 1]
    for _ in range(8):
        for keys in ([*group, "cell"], [*group, "block"]):
            runs["deviation"] -= runs.groupby(keys, sort=False)["deviation"].transform("mean")
    names = [
        "run_id",
        "name",
        "block",
        "position",
        "start",
        "model",
        "dataset",
        "cell",
        "deviation",
        "tainted",
    ]
    return runs.sort_values(["start", "block", "position"], kind="stable")[names].reset_index(drop=True)


def _slope(x: NDArray[np.float64], y: NDArray[np.float64], dof: int) -> Estimate | None:
    """Fits y on x through centred data: exp(slope) over x from 0 to 1, with `dof` degrees of freedom."""
    x = x - x.mean()
    sxx = float(x @ x)
    if len(x) < 4 or sxx == 0 or dof < 1:
        return None
    slope = float(x @ y) / sxx
    residual = y - y.mean() - slope * x
    half = float(student_t.quantile(0.975, dof)) * math.sqrt(float(residual @ residual) / dof / sxx)
    return Estimate(math.exp(slope), math.exp(slope - half), math.exp(slope + half), len(x))


def _rank_in_block(order: pd.DataFrame) -> pd.Series:
    """Places each run within its block, 0 for the first to 1 for the last, by position, else by start time."""
    key = order["position"].where(order["position"].notna(), order["start"].rank())
    rank = key.groupby(order["block"]).rank(method="first") - 1
    size = order.groupby("block")["block"].transform("size") - 1
    return rank / size.clip(lower=1)


def drift(order: pd.DataFrame) -> tuple[Estimate | None, dict[str, Estimate]]:
    """Estimates how much the training time grows from the first to the last run of a block.

    The slope is that of the deviations on the place in the block with its cell and block means taken out as
    well (Frisch-Waugh-Lovell), so a technique that happened to run late is not mistaken for drift.

    Args:
        order: The runs in their order, from `run_order`.

    Returns:
        The growth as a ratio over all blocks, and that of each block; None or absent where the runs are too few.
    """
    if order.empty:
        return None, {}
    place = _rank_in_block(order)
    raw = place.copy()
    for _ in range(8):
        for keys in (["model", "dataset", "cell"], ["model", "dataset", "block"]):
            place = place - place.groupby([order[k] for k in keys], sort=False).transform("mean")
    cells = order.groupby(["model", "dataset", "cell"]).ngroups
    blocks = order.groupby(["model", "dataset", "block"]).ngroups
    groups = order.groupby(["model", "dataset"]).ngroups
    y = order["deviation"].to_numpy(dtype=float)
    overall = _slope(place.to_numpy(dtype=float), y, len(order) - cells - blocks + groups - 1)
    per_block = {}
    for block, part in order.groupby("block", sort=False):
        found = _slope(
            raw.loc[part.index].to_numpy(dtype=float), part["deviation"].to_numpy(dtype=float), len(part) - 2
        )
        if found is not None:
            per_block[str(block)] = found
    return overall, per_block


def control_pairs(study: Tidy, controls: frozenset[str]) -> NDArray[np.float64]:
    """Returns (pairs,): the log ratio on / off of every A/A pair.

    A pair has the same model, dataset, block and setting of all other techniques.
    """
    runs = study.runs[study.runs["outcome"].eq("finished") & study.runs["train_seconds"].gt(0)]
    logs = []
    for name in sorted(controls & {f.name for f in study.factors}):
        others = [f"level.{f.name}" for f in study.factors if f.name != name]
        keys = ["model", "dataset", "block", *others]
        off = runs[f"level.{name}"].eq(OFF)
        left = runs.loc[off, [*keys, "train_seconds"]]
        right = runs.loc[~off, [*keys, "train_seconds"]]
        both = left.merge(right, on=keys, suffixes=("_off", "_on"))
        logs.append(np.log((both["train_seconds_on"] / both["train_seconds_off"]).to_numpy(dtype=float)))
    return np.concatenate(logs) if logs else np.empty(0)


def _sentinels(study: Tidy) -> tuple[Estimate | None, float]:
    """Compares the last sentinel with the first within each model, dataset and block; and their spread."""
    runs = study.sentinels
    runs = runs[runs["outcome"].eq("finished") & runs["train_seconds"].gt(0)].sort_values(["start", "position"])
    if runs.empty:
        return None, math.nan
    logs = np.log(runs["train_seconds"]).groupby([runs[k] for k in ("model", "dataset", "block")], sort=False)
    ends = logs.agg(["first", "last", "size"])
    ends = ends[ends["size"] > 1]
    deviation = (logs.transform(lambda v: v - v.mean())).to_numpy(dtype=float)
    freedom = len(runs) - logs.ngroups
    spread = math.sqrt(float(deviation @ deviation) / freedom) if freedom > 0 else math.nan
    return _mean_ratio((ends["last"] - ends["first"]).to_numpy(dtype=float)), spread


def signed_change(ratio: float) -> str:
    """Writes a ratio as a signed change: 1.05 is `+5.0 %`."""
    return f"{100 * (ratio - 1):+.1f} %"


def _alarms(overall: Estimate | None, control: Estimate | None, sentinel: Estimate | None, tainted: int) -> list[str]:
    """Says in plain words what should make a reader careful."""
    found = []
    if overall is not None and (overall.low > 1 or overall.high < 1) and abs(overall.value - 1) > 0.01:
        found.append(
            f"Training time drifts by {signed_change(overall.value)} from the first to the last run of a block. "
            "Random order keeps this from biasing effects; it widens their intervals."
        )
    if control is not None and (control.low > 1 or control.high < 1):
        found.append(
            f"The A/A controls differ by {signed_change(control.value)} although nothing differs between them: "
            "effects of this size cannot be trusted."
        )
    if sentinel is not None and (sentinel.low > 1 or sentinel.high < 1):
        found.append(
            f"Sentinel baselines change by {signed_change(sentinel.value)} from the start to the end of a block."
        )
    if tainted:
        found.append(f"{tainted} tainted runs are part of the estimates; --rerun-tainted repeats them.")
    return found


def examine(study: Tidy, controls: frozenset[str]) -> Trust:
    """Runs all trust checks on a tidy study.

    Args:
        study: The tidy study.
        controls: The techniques that are A/A controls.

    Returns:
        The findings; parts that the runs cannot show are None, NaN or empty.
    """
    order = run_order(study)
    overall, by_block = drift(order)
    logs = control_pairs(study, controls)
    control = _mean_ratio(logs)
    spread = float(logs.std(ddof=1)) if len(logs) > 1 else math.nan
    reach = float(student_t.quantile(0.975, len(logs) - 1) * spread) if len(logs) > 1 else math.nan
    sentinel, sentinel_spread = _sentinels(study)
    everything = pd.concat([study.runs, study.sentinels], ignore_index=True)
    tainted = everything.loc[everything["tainted"].ne(""), ["run_id", "name", "block", "tainted"]]
    tainted = tainted.rename(columns={"tainted": "reason"}).reset_index(drop=True)
    in_effects = int(study.runs["tainted"].ne("").sum())
    return Trust(
        order,
        overall,
        by_block,
        control,
        spread,
        math.exp(-reach),
        math.exp(reach),
        sentinel,
        sentinel_spread,
        tainted,
        tuple(_alarms(overall, control, sentinel, in_effects)),
    )
