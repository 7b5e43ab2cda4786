"""Runs of the same computation: where a technique cannot act, a pair of them differs in time by noise alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis import verdicts
from pipeline.analysis.frame import OFF, Tidy

_GROUP = ["model", "dataset"]
RUN_KIND = "run"
# Log ratio of two single runs of the same computation up to which nobody is alarmed: runs on a quiet machine differ so.
LEAST_DIFFERENCE = 0.05
# Root mean square of such log ratios from which the machine was not quiet: 10 % for each run.
LARGEST_SCATTER = 0.15
# Of the pairs' own test, so that both tests together alarm in at most 5 % of reports.
PAIR_ALPHA = 0.04


def timed_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keeps the finished runs whose training time has a logarithm."""
    return runs[runs["outcome"].eq("finished") & runs["train_seconds"].gt(0)]


def control_pairs(study: Tidy, controls: frozenset[str]) -> pd.DataFrame:
    """Returns every A/A pair: model, dataset, block, log (of the ratio on / off); of both cells name, kind, seconds.

    A pair has the same model, dataset, block and setting of all other techniques.
    """
    runs = timed_runs(study.runs)
    names = [f"{of}_{side}" for of in ("cell", "kind", "train_seconds") for side in ("off", "on")]
    parts = [pd.DataFrame(columns=[*_GROUP, "block", "log", *names]).astype({"log": float})]
    for name in sorted(controls & {f.name for f in study.factors}):
        keys = [*_GROUP, "block", *(f"level.{f.name}" for f in study.factors if f.name != name)]
        off = runs[f"level.{name}"].eq(OFF)
        both = runs[off].merge(runs[~off], on=keys, suffixes=("_off", "_on"))
        parts.append(both.assign(log=np.log(both["train_seconds_on"] / both["train_seconds_off"]))[[*parts[0]]])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def differing(logs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Says which A/A pairs of single runs differ by more than noise.

    A pair's noise is what the others show: its log ratio over their root mean square is Student's t with as many
    degrees of freedom as there are others (the true log ratio is 0), and its p-value is multiplied by the number of
    pairs (Bonferroni). Where all of them scatter, none stands out, and yet none can be trusted: then the widest is
    given. Of 2,000 simulated studies of a quiet machine at most 5 % have such a pair, whatever the noise of its runs up
    to 5 % (`tests/analysis/test_same_computation.py`).

    Args:
        logs: log ratios of the pairs of a study, (..., pairs).

    Returns:
        For each pair whether it does.
    """
    squares = logs**2
    many = logs.shape[-1]
    total = squares.sum(axis=-1, keepdims=True)
    wide: NDArray[np.bool_] = (squares > LEAST_DIFFERENCE**2) & (many > 1)  # one has no others to stand out from
    if many > 1:
        others = np.sqrt(np.maximum((total - squares) / (many - 1), 1e-12))
        wide = wide & (many * np.asarray(verdicts.p_values(np.abs(logs), others, many - 1)) < PAIR_ALPHA)
    scattered = ~wide.any(axis=-1, keepdims=True) & (total > many * LARGEST_SCATTER**2)
    return np.asarray(wide | (scattered & (squares == squares.max(axis=-1, keepdims=True))), dtype=np.bool_)


def pair_alarm(pairs: pd.DataFrame) -> list[str]:
    """Says which cells are the same computation and yet took different times."""
    # turns are no single runs: rounds have many, and their mean has its own test
    single = pairs[pairs["kind_off"].eq(RUN_KIND) & pairs["kind_on"].eq(RUN_KIND)]
    if single.empty:
        return []
    found = single[differing(single["log"].to_numpy(dtype=float))]
    if found.empty:
        return []
    row = found.iloc[int(found["log"].abs().to_numpy().argmax())]
    seconds = f"{row['train_seconds_off']:.3g} s and {row['train_seconds_on']:.3g} s"
    more = (
        f", and {len(found) - 1} more such pairs" if len(found) > 2 else ", and one more such pair" * (len(found) - 1)
    )
    return [
        f"{row['cell_off']} and {row['cell_on']} are the same computation here, yet took {seconds} "
        f"({row['model']} / {row['dataset']}, block {row['block']}{more}): "
        "the machine was disturbed, and other differences of this size may be noise, too."
    ]
