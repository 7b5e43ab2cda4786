"""From how much training on a technique pays that costs time before the first step: compilation, captured graphs.

Training time has no set-up in it, so a compiled cell looks as fast as it is once it is compiled. What its first uses
take more than the baseline's is divided by what it saves with each image: `images = extra / (t (1 - ratio))`, with t
the baseline's seconds for an image. The interval's ends are those of the ratio's; the set-up is a mean without one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis.effects import Effects
from pipeline.analysis.engagement import compiler_cache
from pipeline.analysis.frame import BASELINE, Factor

LEAST_SECONDS = 1.0  # more than the baseline's first uses, from which set-up is worth a word


@dataclass(frozen=True)
class BreakEven:
    """When a cell has paid its set-up back.

    Attributes:
        model, dataset, cell: Which one, beside the baseline of its group.
        cache: Whether the compiler found what it needed in its cache: `warm`, `cold`, or empty where nobody knows.
        extra_seconds: That its first uses and its compilation took more than the baseline's, s.
        epochs: Epochs after which it is even; infinite where it is not faster.
        low, high: Ends of the interval; `high` is infinite where the ratio's interval reaches 1.
        images: Of an epoch.
    """

    model: str
    dataset: str
    cell: str
    cache: str
    extra_seconds: float
    epochs: float
    low: float
    high: float
    images: float

    def __str__(self) -> str:
        cache = f" with a {self.cache} compiler cache" if self.cache else ""
        what = f"{self.cell}: {self.extra_seconds:.1f} s of compilation and first uses{cache} before training"
        if math.isinf(self.low):
            return f"{what}, which it does not pay back"
        if math.isinf(self.epochs):
            return f"{what}; not shown to pay back, from {_epochs(self.low)} on if at all"
        said = f"{what}; pays from {_epochs(self.epochs)} on"
        if not math.isnan(self.low):
            said += f" [{_shown(self.low)}, {'never' if math.isinf(self.high) else _shown(self.high)}]"
        return f"{said}, of {self.images:,.0f} images each"


def _shown(count: float) -> str:
    return f"{count:.2g}" if count < 10 else f"{count:,.0f}"


def _epochs(count: float) -> str:
    return f"{_shown(count)} epoch{'' if _shown(count) == '1' else 's'}"


def break_evens(effects: Effects) -> list[BreakEven]:
    """When each cell with a compiler or captured graphs has paid back what that takes before training.

    Args:
        effects: The estimates.

    Returns:
        One for each such cell and state of the compiler's cache that takes at least `LEAST_SECONDS` more than its
        baseline before training.
    """
    timed = effects.timed
    if timed.empty or timed["compile_seconds"].isna().all():
        return []
    runs = timed.assign(set_up=timed["compile_seconds"].fillna(0.0) + timed["first_use_seconds"].fillna(0.0))
    # a run that was replaced by rounds has no rate of its own
    runs = runs[runs["outcome"].eq("finished") & runs["images_per_second"].notna()]
    runs = runs.assign(cache=runs["engagement"].map(compiler_cache))
    by_cell: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for key, part in runs.groupby(["model", "dataset", "cell", "cache"]):
        means = part[["set_up", "compile_seconds", "epoch_images"]].mean()
        of_cell = by_cell.setdefault((str(key[0]), str(key[1]), str(key[2])), {})
        of_cell[str(key[3])] = {str(name): float(value) for name, value in means.items()}
    rates = effects.cells[effects.cells["response"].eq("images_per_second") & effects.cells["cell"].eq(BASELINE)]
    rate_of = {(str(row["model"]), str(row["dataset"])): float(row["mean"]) for row in rates.to_dict("records")}
    found = []
    for row in effects.cells[effects.cells["response"].eq("train_seconds")].to_dict("records"):
        model, dataset, cell = (str(row[name]) for name in ("model", "dataset", "cell"))
        bases, rate = by_cell.get((model, dataset, BASELINE), {}), rate_of.get((model, dataset))
        for cache, mine in by_cell.get((model, dataset, cell), {}).items():
            base = bases.get("", bases.get(cache))  # one that compiles is beside what found the cache as it did
            if base is None or rate is None or math.isnan(mine["compile_seconds"]):
                continue
            extra = mine["set_up"] - base["set_up"]
            if extra < LEAST_SECONDS:
                continue
            ratios = tuple(float(row[name]) for name in ("estimate", "low", "high"))
            middle, low, high = (_epochs_to_even(extra, ratio, rate, base["epoch_images"]) for ratio in ratios)
            found.append(BreakEven(model, dataset, cell, cache, extra, middle, low, high, base["epoch_images"]))
    return found


def of_answer(found: Sequence[BreakEven], factors: Sequence[Factor]) -> list[BreakEven]:
    """Those of techniques alone and of all together: of a grid with a compiler half of the cells have one.

    Args:
        found: Of `break_evens`.
        factors: The techniques of the study.
    """
    together = "+".join(factor.term(factor.levels[-1]) for factor in factors if factor.levels)
    return [each for each in found if "+" not in each.cell or each.cell == together]


def _epochs_to_even(extra: float, ratio: float, rate: float, images: float) -> float:
    """Epochs after which a cell has saved so many seconds; infinite where it saves none, NaN where nobody knows."""
    return math.inf if ratio >= 1 else extra * rate / (1 - ratio) / images
