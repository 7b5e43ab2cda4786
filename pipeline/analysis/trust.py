"""Can the numbers be trusted? Drift, A/A controls, sentinel baselines, tainted, invalid and copied runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis import engagement, student_t, verdicts
from pipeline.analysis.frame import Tidy
from pipeline.analysis.machines import mixed_blocks
from pipeline.analysis.pooling import ALL
from pipeline.analysis.responses import RATIO, RESPONSES
from pipeline.analysis.same_computation import control_pairs, pair_alarm, timed_runs
from pipeline.analysis.verdicts import COSTS, PAYS
from pipeline.shown import counted

ALPHA = 0.05
_GROUP = ["model", "dataset"]


@dataclass(frozen=True)
class Estimate:
    """A ratio with its 95 % interval.

    Attributes:
        value: The ratio.
        low, high: Ends of the interval; NaN where there are too few runs for one.
        p: Two-sided p-value of a ratio of 1.
        runs: Runs, or pairs of runs, that it is made from.
        blocks: Blocks whose means the interval is made from; 1 where it is made from the pairs of a single block,
            0 where from the runs.
    """

    value: float
    low: float
    high: float
    p: float
    runs: int
    blocks: int = 0


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
        control_by_group: The same for each `model / dataset`.
        control_spread: Standard deviation of the log ratios of A/A pairs: the noise of a single paired
            comparison.
        control_low, control_high: The range that holds 95 % of single A/A ratios (normal theory).
        sentinel: Last over first sentinel baseline within blocks; None without sentinels.
        sentinel_spread: Coefficient of variation of sentinels within one model, dataset and block.
        tainted: Tainted runs still in the analysis: run_id, name, block, reason.
        alarms: Plain sentences, one per finding that should stop a reader.
        drift_unknown: Why there is no drift; empty where there is.
    """

    order: pd.DataFrame
    drift: Estimate | None
    drift_by_block: dict[str, Estimate]
    control: Estimate | None
    control_by_group: dict[str, Estimate]
    control_spread: float
    control_low: float
    control_high: float
    sentinel: Estimate | None
    sentinel_spread: float
    tainted: pd.DataFrame
    alarms: tuple[str, ...]
    drift_unknown: str = ""


def _ratio(log: float, se: float, dof: int, runs: int, blocks: int = 0) -> Estimate:
    """Turns an estimate on the log scale, its standard error and degrees of freedom into a ratio."""
    half = float(student_t.quantile(1 - ALPHA / 2, dof)) * se
    p = float(verdicts.p_values(log, se, dof))
    return Estimate(math.exp(log), math.exp(log - half), math.exp(log + half), p, runs, blocks)


def _mean_ratio(pairs: pd.DataFrame) -> Estimate | None:
    """Averages the log ratios of pairs (columns log, block) as a ratio, with Student's t over the blocks' means.

    What a block does to one of its pairs it may do to all of them: they are no replicates of each other. With a single
    block there are only its pairs to go by.
    """
    means = pairs.groupby("block")["log"].mean()
    values = means if len(means) > 1 else pairs["log"]
    if values.empty:
        return None
    return _ratio(
        float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(values) - 1, len(pairs), len(means)
    )


def run_order(study: Tidy) -> pd.DataFrame:
    """Lists finished runs in run order with each one's deviation from its cell and block (log training time).

    The deviation is the residual of an additive cell + block fit by two sweeps of means, exact for balanced
    studies; a cell that ran once has none and is left out.
    """
    runs = timed_runs(study.runs)
    runs = runs.assign(deviation=np.log(runs["train_seconds"]))
    repeats = runs.groupby([*_GROUP, "cell"])["deviation"].transform("size")
    runs = runs[repeats > 1].copy()
    for _ in range(8):
        for key in ("cell", "block"):
            runs["deviation"] -= runs.groupby([*_GROUP, key], sort=False)["deviation"].transform("mean")
    names = ["run_id", "name", "block", "position", "start", *_GROUP, "cell", "deviation", "tainted"]
    return runs.sort_values(["start", "block", "position"], kind="stable")[names].reset_index(drop=True)


def _slope(x: NDArray[np.float64], y: NDArray[np.float64], dof: int) -> Estimate | None:
    """Fits y on x through centred data: exp(slope) over x from 0 to 1, with `dof` degrees of freedom."""
    x = x - x.mean()
    sxx = float(x @ x)
    if len(x) < 4 or not sxx > 0 or dof < 1:  # NaN: the order is not known
        return None
    slope = float(x @ y) / sxx
    residual = y - y.mean() - slope * x
    return _ratio(slope, math.sqrt(float(residual @ residual) / dof / sxx), dof, len(x))


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
        for key in ("cell", "block"):
            place = place - place.groupby([order[k] for k in (*_GROUP, key)], sort=False).transform("mean")
    cells, blocks, groups = (order.groupby(keys).ngroups for keys in ([*_GROUP, "cell"], [*_GROUP, "block"], _GROUP))
    overall = _slope(place.to_numpy(), order["deviation"].to_numpy(), len(order) - cells - blocks + groups - 1)
    per_block = {}
    for block, part in order.groupby("block", sort=False):
        found = _slope(raw[part.index].to_numpy(), part["deviation"].to_numpy(), len(part) - 2)
        if found is not None:
            per_block[str(block)] = found
    return overall, per_block


def _sentinels(study: Tidy) -> tuple[Estimate | None, float]:
    """Compares the last sentinel with the first within each model, dataset and block; and their spread."""
    runs = timed_runs(study.sentinels).sort_values(["start", "position"])
    if runs.empty:
        return None, math.nan
    logs = np.log(runs["train_seconds"]).groupby([runs[k] for k in (*_GROUP, "block")], sort=False)
    ends = logs.agg(["first", "last", "size"]).reset_index()
    ends = ends[ends["size"] > 1]
    freedom = len(runs) - logs.ngroups
    spread = math.sqrt(float((logs.transform(lambda v: v - v.mean()) ** 2).sum()) / freedom) if freedom else math.nan
    return _mean_ratio(ends.assign(log=ends["last"] - ends["first"])), spread


def _copies(study: Tidy) -> list[str]:
    """Names the blocks that repeat an earlier one's training times, in two cells of a model and dataset or more."""
    keys = [*_GROUP, "cell", "train_seconds"]
    runs = timed_runs(study.runs).sort_values("start")[[*keys, "block"]]
    runs = runs.assign(rank=runs["block"].factorize()[0])
    same = runs.merge(runs, on=keys, suffixes=("", "_copied"))
    same = same[same["rank"] > same["rank_copied"]]
    cells = same.groupby([*_GROUP, "rank", "rank_copied", "block", "block_copied"]).size()
    found = cells[cells > 1].reset_index().drop_duplicates("block").sort_values("rank")
    return [f"{copy} copies {of}" for copy, of in zip(found["block"], found["block_copied"], strict=True)]


def signed_change(ratio: float) -> str:
    """Writes a ratio as a signed change: 1.05 is `+5.0 %`."""
    return f"{100 * (ratio - 1):+.1f} %"


def _some(names: Sequence[str]) -> str:
    """Lists the first three of some names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _control_alarm(pooled: Estimate | None, groups: Mapping[str, Estimate]) -> list[str]:
    """Says which A/A controls differ, by group and averaged over all; corrected for the number of tests (Holm)."""
    tests = {"on average": pooled, **groups} if pooled is not None and len(groups) > 1 else groups
    adjusted = verdicts.holm([test.p for test in tests.values()])
    off = [f"{signed_change(e.value)} ({n})" for (n, e), p in zip(tests.items(), adjusted, strict=True) if p < ALPHA]
    words = "although nothing differs between them: effects of this size cannot be trusted."
    return [f"The A/A controls differ by {_some(off)} {words}"] if off else []


def _shown_control_alarm(effects: pd.DataFrame | None) -> list[str]:
    """Says which effect of an A/A control is shown, the surest of them: it is told beside the others."""
    if effects is None or effects.empty:
        return []
    at = effects["response"].eq("train_seconds") & effects["control"].eq(True) & effects["verdict"].isin((PAYS, COSTS))
    if not at.any():
        return []
    row = effects[at].sort_values("p", kind="stable").iloc[0]
    where = "on average" if row["model"] == row["dataset"] == ALL else f"{row['model']} / {row['dataset']}"
    return [
        f"{row['term']} can do nothing here, and yet came out at {1 / row['estimate']:.3f}x as fast "
        f"[{1 / row['high']:.3f}, {1 / row['low']:.3f}] ({where}): effects of this size cannot be trusted."
    ]


def _invalid(runs: pd.DataFrame) -> list[str]:
    """Says which finished runs have a value that no estimate can use."""
    done = runs[runs["outcome"].eq("finished")]
    names = done["name"].where(done["name"].ne(""), done["run_id"])
    return [
        f"{counted(len(part), 'finished run')} with {kind} {response.title} ({_some(list(part))}): "
        "in no estimate of it."
        for response in RESPONSES
        if response.unit == RATIO
        for kind, part in names.groupby(done[f"invalid.{response.name}"])
        if kind
    ]


def _tainted_alarm(runs: pd.DataFrame) -> list[str]:
    """Says how many runs of the estimates were disturbed, and by what the first of them.

    Estimates are made from finished runs of a group that has another cell to compare with.
    """
    done = runs[runs["outcome"].eq("finished")]
    several = done.groupby(_GROUP)["cell"].transform("nunique").gt(1)
    found = done.loc[done["tainted"].ne("") & several, "tainted"]
    if found.empty:
        return []
    be, them = ("is", "it") if len(found) == 1 else ("are", "them")
    what = f"{counted(len(found), 'tainted run')} {be} part of the estimates"
    return [f"{what} ({found.iloc[0]}); --rerun-tainted repeats {them}."]


def _alarms(overall: Estimate | None, sentinel: Estimate | None) -> list[str]:
    """Says in plain words what should make a reader careful."""
    found = []
    if overall is not None and overall.p < ALPHA and abs(overall.value - 1) > 0.01:
        found.append(
            f"Training time drifts by {signed_change(overall.value)} from the first to the last run of a block. "
            "Random order keeps this from biasing effects on average over orders, not in this one order; it widens "
            "their intervals."
        )
    if sentinel is not None and sentinel.p < ALPHA:
        change = signed_change(sentinel.value)
        found.append(f"Sentinel baselines change by {change} from the start to the end of a block.")
    return found


def drift_reason(study: Tidy) -> str:
    """Says why the drift is not known, where it is not.

    Args:
        study: The tidy study.
    """
    done = timed_runs(study.runs)
    if done.empty:
        return "no run has finished"
    if done.groupby([*_GROUP, "cell"]).size().max() < 2:
        return (
            "each setting ran once, so that a drift cannot be told from what the settings do; run more blocks (--seeds)"
        )
    return "too few runs, or their order is not known"


def examine(
    study: Tidy, controls: frozenset[str], timed: pd.DataFrame | None = None, effects: pd.DataFrame | None = None
) -> Trust:
    """Runs all trust checks on a tidy study.

    Args:
        study: The tidy study.
        controls: The techniques that are A/A controls.
        timed: What the effects on times are of, where that is not the study's runs (`Effects.timed`): the A/A controls
            are to tell of these.
        effects: The rows of the table of effects with their details, whose controls are looked at, too.

    Returns:
        The findings; parts that the runs cannot show are None, NaN or empty.
    """
    order = run_order(study)
    overall, by_block = drift(order)
    pairs = control_pairs(study if timed is None else replace(study, runs=timed), controls)
    control = _mean_ratio(pairs)
    means = ((f"{key[0]} / {key[1]}", _mean_ratio(part)) for key, part in pairs.groupby(_GROUP, sort=False))
    by_group = {name: mean for name, mean in means if mean is not None}
    spread = float(pairs["log"].std())
    reach = float(student_t.quantile(0.975, len(pairs) - 1)) * spread if len(pairs) > 1 else math.nan
    sentinel, sentinel_spread = _sentinels(study)
    everything = pd.concat([study.runs, study.sentinels], ignore_index=True)
    tainted = everything.loc[everything["tainted"].ne(""), ["run_id", "name", "block", "tainted"]]
    tainted = tainted.rename(columns={"tainted": "reason"}).reset_index(drop=True)
    # what should not differ and does comes first: nothing else says as plainly what the machine did
    alarms = pair_alarm(pairs) + (_control_alarm(control, by_group) or _shown_control_alarm(effects))
    alarms += _alarms(overall, sentinel) + _tainted_alarm(study.runs) + _invalid(everything)
    alarms += engagement.alarms(study.runs if timed is None else timed)
    if mixed := mixed_blocks(study):
        alarms.append(
            f"Blocks that ran on several GPUs or hosts ({_some(mixed)}): comparisons within them carry the difference."
        )
    if copies := _copies(study):
        words = "A copy is no replicate: every interval is too narrow."
        alarms.append(f"Blocks with the same training times to the last digit: {_some(copies)}. {words}")
    return Trust(
        order,
        overall,
        by_block,
        control,
        by_group,
        spread,
        math.exp(-reach),
        math.exp(reach),
        sentinel,
        sentinel_spread,
        tainted,
        tuple(alarms),
        "" if overall is not None else drift_reason(study),
    )
