"""The training time to a target accuracy, where runs that miss the target are censored and not dropped.

Of a run that missed only this is known: it needs longer than its whole training. With tau the shortest whole training
among the runs of a (model, data set) that missed, min(time, tau) is known of every run, whatever made runs miss. Its
logarithm is analysed as any other response is, so the effects are ratios of geometric means restricted to tau
(restricted means: Royston and Parmar 2013, BMC Med Res Methodol 13:152; tau from the data: Tian et al. 2020,
Biometrics 76).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.contrasts import build_contrasts, label
from pipeline.analysis.frame import BASELINE, OFF, Factor, Tidy
from pipeline.analysis.pooling import ALL
from pipeline.design.names import EPOCH_SECONDS, VAL_ACCURACY

RESPONSE = "seconds_to_target"
_KINDS = {"main": "", "simple": " alone", "combined": " together"}  # the effects that sentences are about, in words
_OPPOSITE = {("pays", "costs"): "faster per step, slower", ("costs", "pays"): "slower per step, faster"}


def times(history: pd.DataFrame, target: float) -> pd.DataFrame:
    """Finds when each run first reached a target accuracy; to the end of an epoch that was validated, not finer.

    Args:
        history: Points of the runs, columns run_id, key, step, timestamp, value.
        target: Validation accuracy, as a fraction.

    Returns:
        By run_id: `seconds`, the training time until then, or all of it where the run `missed`; NaN where the time of
        an epoch or every validation is unknown.

    Examples:
        >>> points = [("a", "train/epoch_seconds", 1, 0, 2.0), ("a", "val/accuracy", 1, 0, 0.7),
        ...           ("a", "train/epoch_seconds", 2, 1, 3.0), ("a", "val/accuracy", 2, 1, 0.9)]
        >>> history = pd.DataFrame(points, columns=["run_id", "key", "step", "timestamp", "value"])
        >>> [times(history, target).to_dict("index")["a"] for target in (0.9, 0.95)]
        [{'seconds': 5.0, 'missed': False}, {'seconds': 5.0, 'missed': True}]
    """
    if history.empty:
        return pd.DataFrame({"seconds": [], "missed": []})
    points = history.sort_values("timestamp", kind="stable").drop_duplicates(["run_id", "key", "step"], keep="last")
    wide = points.set_index(["run_id", "step", "key"])["value"].unstack("key").sort_index()
    wide = wide.reindex(columns=[EPOCH_SECONDS, VAL_ACCURACY]).dropna(how="all")
    run = wide.index.get_level_values("run_id")
    elapsed = wide[EPOCH_SECONDS].fillna(np.inf).groupby(run).cumsum()
    reached = elapsed.where(wide[VAL_ACCURACY].ge(target)).groupby(run).first()
    seconds = reached.fillna(elapsed.groupby(run).last())
    seconds = seconds.where(np.isfinite(seconds) & wide[VAL_ACCURACY].notna().groupby(run).any())
    return pd.DataFrame({"seconds": seconds, "missed": reached.isna() & seconds.notna()})


def with_times(study: Tidy, history: pd.DataFrame, target: float) -> Tidy:
    """Gives the finished runs of a study their restricted times to a target accuracy.

    Args:
        study: The tidy study.
        history: As for `times`.
        target: Validation accuracy, as a fraction.

    Returns:
        The study; its runs have `seconds_to_target`, min(time, tau), besides `missed` and `tau`, s.
    """
    runs, found = study.runs, times(history, target)
    done = runs["outcome"].eq("finished")
    seconds = runs["run_id"].map(found["seconds"]).astype(float).where(done)
    missed = runs["run_id"].isin(found.index[found["missed"]]) & done
    tau = seconds.where(missed).groupby([runs["model"], runs["dataset"]]).transform("min").fillna(np.inf)
    return replace(study, runs=runs.assign(missed=missed, tau=tau, **{RESPONSE: np.minimum(seconds, tau)}))


def limited(rows: list[dict[str, Any]], runs: pd.DataFrame, factors: Sequence[Factor]) -> list[dict[str, Any]]:
    """Says of the effects of one (model, data set) how far they are restricted.

    Where every run that an effect compares is at tau, the ratio is 1 by the restriction alone: there is no estimate.

    Args:
        rows: The group's effects, as `group_rows` gives them; those on the time to the target are changed.
        runs: The group's runs, of `with_times`.
        factors: The techniques.

    Returns:
        The rows.
    """
    known, at_tau = runs[RESPONSE].notna(), runs[RESPONSE].ge(runs["tau"])
    active = [f for f in factors if f.levels and runs[f"level.{f.name}"].ne(OFF).any()]
    if not (at_tau.any() and active):
        return rows
    planned = runs.groupby("cell", sort=False)[[f"level.{f.name}" for f in active]].first()
    cell_of = dict(zip(planned.itertuples(index=False, name=None), planned.index, strict=True))
    cells = [levels for levels, cell in cell_of.items() if (known & runs["cell"].eq(cell)).any()]
    compared = {
        (c.kind, c.term): [label(cell, active) for cell, weight in zip(cells, c.weights, strict=True) if weight]
        for c in build_contrasts(cells, list(cell_of), active)
        if c.weights is not None
    }
    for row in rows:
        if row["response"] != RESPONSE or not row["estimable"]:
            continue
        used = known & runs["cell"].isin(compared.get((row["kind"], row["term"]), [row["term"], BASELINE]))
        k, n = int((used & at_tau).sum()), int(used.sum())
        said = f"{k} of the {n} runs compared needed {runs['tau'].iloc[0]:.4g} s or longer" if k else ""
        if k == n:
            row |= {"log_estimate": math.nan, "se": math.nan, "dof": math.nan, "estimable": False, "method": "none"}
            said += ": no estimate"
        row["note"] = "; ".join(filter(None, (row["note"], said)))
    return rows


def notes(runs: pd.DataFrame, target: float | None) -> tuple[str, ...]:
    """Says how many runs missed the target, what the ratios are restricted to, and which cells never reached it."""
    if target is None:
        return ()
    runs = runs[runs["outcome"].eq("finished")]
    known = runs[runs[RESPONSE].notna()]
    said = []
    if len(known) < len(runs):
        said.append(
            f"{len(known)} of {len(runs)} finished runs have {VAL_ACCURACY} and {EPOCH_SECONDS} by epoch; "
            "the others have no time to the target accuracy."
        )
    if len(known) and not known["missed"].any():
        said.append(f"All {len(known)} runs reached the target accuracy {target:g}: no time to it is restricted.")
    for (model, dataset), group in known.groupby(["model", "dataset"], sort=False):
        if not group["missed"].any():
            continue
        never = group.groupby("cell", sort=False)["missed"].all()
        said.append(
            f"{model} / {dataset}: {group['missed'].sum()} of {len(group)} runs missed the target accuracy {target:g}; "
            f"times to it are restricted to {group['tau'].iloc[0]:.4g} s, the shortest training that missed it."
            + (f" Every run missed it of {', '.join(never.index[never])}." if never.any() else "")
        )
    return tuple(said)


def contrary(table: pd.DataFrame) -> list[str]:
    """Says of which techniques the training time and the time to the target have opposite verdicts.

    Args:
        table: The rows of effects.csv.

    Returns:
        One sentence a technique at the widest average where it is so, by the main effect, or else alone.
    """
    rows = table[table["kind"].isin(_KINDS)]
    step, goal = (rows[rows["response"].eq(name)] for name in ("train_seconds", RESPONSE))
    both = step.merge(goal, on=["term", "kind", "model", "dataset"], suffixes=("", "_goal"))
    found: dict[str, dict[tuple[int, int], list[str]]] = {}
    for row in both.to_dict("records"):
        said = _OPPOSITE.get((row["verdict"], row["verdict_goal"]))
        if said is None:
            continue
        apart, kind = (row["model"] != ALL) + (row["dataset"] != ALL), list(_KINDS).index(row["kind"])
        where = f" on {row['model']} / {row['dataset']}" if apart else ""
        found.setdefault(row["term"], {}).setdefault((apart, kind), []).append(
            f"{row['term']}{_KINDS[row['kind']]}{where}: {said} to the target "
            f"({row['estimate']:.3f} of the training time, {row['estimate_goal']:.3f} of the time to the target)."
        )
    return [sentence for ranked in found.values() for sentence in ranked[min(ranked)]]
