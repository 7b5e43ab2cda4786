"""What a cell's throughput is worth: FLOP/s reached, beside what the device could reach.

Two anchors, because they answer two questions: a large matrix product shows what a program can reach on the device at
all, the data sheet what others mean by model FLOPs utilisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.ceilings import percent_of
from pipeline.analysis.effects import Effects
from pipeline.analysis.peak_flops import achieved_flops, peak_flops

_RATES = ("images_per_second", "flops_per_second", "of_achieved", "of_peak")


@dataclass(frozen=True)
class Anchor:
    """The throughput of one cell; what is unknown, or not the same in all its runs, is None.

    Attributes:
        model, dataset, cell: The cell.
        precision: Precision of the recipe.
        images_per_second: Geometric mean over the runs, as all rates here.
        flops_per_second: Floating-point operations that the model needs, per second.
        of_achieved: Their fraction of what large matrix products reach on the device.
        of_peak: Their fraction of the data sheet's peak (model FLOPs utilisation).
        achieved: What large matrix products reach, FLOP/s, of all devices of a run.
        peak: The data sheet's peak, FLOP/s, of all devices of a run.
    """

    model: str
    dataset: str
    cell: str
    precision: str | None
    images_per_second: float
    flops_per_second: float | None
    of_achieved: float | None
    of_peak: float | None
    achieved: float | None
    peak: float | None


def _limit(runs: pd.DataFrame, look_up: Callable[[str, str], float | None]) -> pd.Series:
    """Looks up each run's limit; a run in several processes has as many devices."""
    names = list(zip(runs["gpu_name"], runs["precision"], strict=True))
    known = {key: look_up(*key) for key in set(names)}
    return pd.Series([known[key] for key in names], index=runs.index, dtype=float) * runs["processes"]


def _only(values: pd.Series) -> Any:
    """Returns the value that all runs share, else NaN."""
    return values.iloc[0] if values.nunique(dropna=False) == 1 else math.nan


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def anchors(effects: Effects) -> list[Anchor]:
    """Sets the throughput of every cell beside what its device could reach.

    Args:
        effects: The estimates.

    Returns:
        One anchor per cell with finished runs of a known rate; none at all where no operations were counted.
    """
    runs = effects.study.runs
    runs = runs[runs["outcome"].eq("finished") & runs["images_per_second"].gt(0)]
    runs = runs.assign(
        flops_per_second=runs["images_per_second"] * runs["flops_per_image"].where(runs["flops_per_image"] > 0),
        achieved=_limit(runs, achieved_flops),
        peak=_limit(runs, peak_flops),
    )
    if runs["flops_per_second"].isna().all():
        return []
    runs = runs.assign(
        of_achieved=runs["flops_per_second"] / runs["achieved"], of_peak=runs["flops_per_second"] / runs["peak"]
    )
    found = []
    for (model, dataset, cell), group in runs.groupby(["model", "dataset", "cell"], sort=False):
        rates = {name: _known(value) for name, value in np.exp(np.log(group[[*_RATES]]).mean()).items()}
        precision = _only(group["precision"])
        found.append(
            Anchor(
                str(model),
                str(dataset),
                str(cell),
                precision if isinstance(precision, str) and precision else None,
                **rates,  # type: ignore[arg-type]
                achieved=_known(_only(group["achieved"])),
                peak=_known(_only(group["peak"])),
            )
        )
    return found


def tera(value: float) -> str:
    """Writes FLOP/s in TFLOP/s with three significant digits."""
    scaled = value / 1e12
    return f"{scaled:.3g}" if scaled < 1000 else f"{scaled:,.0f}"


def _share(fraction: float, of: str, limit: float | None) -> str:
    return f"{percent_of(fraction)} of {of}" + ("" if limit is None else f" ({tera(limit)})")


def fastest(cells: list[Anchor]) -> list[str]:
    """Says of each model and dataset what its fastest cell reaches.

    Args:
        cells: The throughput of every cell.

    Returns:
        One sentence per model and dataset with a cell whose operations are counted.
    """
    best: dict[tuple[str, str], Anchor] = {}
    for anchor in cells:
        key = (anchor.model, anchor.dataset)
        if anchor.flops_per_second and (key not in best or anchor.images_per_second > best[key].images_per_second):
            best[key] = anchor
    said = []
    for a in best.values():
        parts = [
            f"{a.model} on {a.dataset}: the fastest cell ({a.cell}) reaches {tera(a.flops_per_second or 0.0)} TFLOP/s"
        ]
        if a.of_achieved is not None:
            kind = f"large {a.precision} matrix products" if a.precision else "large matrix products"
            parts.append(_share(a.of_achieved, f"what {kind} reach on such a device", a.achieved))
        if a.of_peak is not None:
            parts.append(_share(a.of_peak, "the data sheet's peak", a.peak))
        said.append(", ".join(parts) + ".")
    return said
