"""When enough blocks have been measured: a sequential rule on the widths of intervals.

**The rule.** The main effects on the training time are looked at after each block from the fourth on, where errors are
by block. One is precise when its interval is narrow enough and was so `FURTHER_BLOCKS` blocks ago or before: who stops
at the first narrow interval (Chow and Robbins, Ann. Math. Stat. 36, 1965; with Student's t: Starr, ibid. 37, 1966)
picks those whose variance came out too small, and 88 to 92 % of them cover; a fixed number of blocks more repairs it
(Simons, ibid. 39, 1968). A group (model, data set) is done at the first look at which all its main effects are precise.

`experiments/stopping.py` simulates this and other rules, with up to 20 blocks: of those with a first look from four
blocks on that end with intervals as narrow as asked for, this one needs the fewest blocks and covers in 94 % or more at
every noise. A group with one effect is the worst case; with several of like noise the last one to be precise decides.

Only widths are looked at, never estimates or p-values: of normal noise the two are independent, so looking pulls no
effect away from none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pipeline.analysis import verdicts
from pipeline.analysis.frame import Factor, text, tidy
from pipeline.analysis.group_effects import group_rows
from pipeline.analysis.responses import RESPONSES
from pipeline.design.names import MODEL_PARAM
from pipeline.tracking.study_data import StudyData

FIRST_LOOK = 4  # blocks; with fewer, errors are by run
FURTHER_BLOCKS = 5  # after an interval is narrow enough for the first time
_RESPONSE = "train_seconds"


@dataclass(frozen=True)
class MainEffectPrecision:
    """How precise a main effect on the training time is.

    Attributes:
        model, dataset: The group that it is of, as planned.
        name: Which effect it is, for people.
        width: Whole width of its interval now, `high / low - 1`; NaN without an interval.
        at_least: Fewest further blocks after which it can be precise; 0 if it is, or its group was.
        expected: Further blocks that it will likely take; None if unknown or too many.
    """

    model: str
    dataset: str
    name: str
    width: float
    at_least: int
    expected: int | None

    def __str__(self) -> str:
        known = "no interval" if math.isnan(self.width) else f"{self.width:.1%} wide"
        more = f", about {self.expected} more block{'s' * (self.expected != 1)}" if self.expected else ""
        return f"{self.name} ({known}{more})"


def precise(
    widths: ArrayLike, precision: float, first: int = FIRST_LOOK, further: int = FURTHER_BLOCKS
) -> NDArray[np.bool_]:
    """Says after which numbers of blocks an effect is precise.

    Args:
        widths: (..., n) whole widths of its interval after 1 .. n blocks; NaN without an interval.
        precision: Largest width that is narrow enough.
        first: Blocks at the first look.
        further: Fewest blocks since the first look at which it was narrow enough.

    Returns:
        (..., n) whether the rule holds.

    Examples:
        >>> precise([9, 9, 9, 2, 3, 1, 1, 1, 3, 2], 2).nonzero()[0] + 1
        array([10])
    """
    narrow = np.asarray(widths, dtype=float) <= precision
    narrow[..., : first - 1] = False
    before = np.zeros_like(narrow)
    before[..., further:] = np.logical_or.accumulate(narrow, axis=-1)[..., : max(narrow.shape[-1] - further, 0)]
    return narrow & before


def main_effect_precisions(
    study: StudyData, precision: float = 0.02, confidence: float = 0.95
) -> list[MainEffectPrecision]:
    """Says how precise every main effect on the training time is, by the rule of this module.

    It depends on nothing but the runs in the order of their blocks: whoever asks again, later or in between, hears the
    same. An effect that no block can give (its cell ran out of memory) is left out.

    Args:
        study: The runs that count.
        precision: Largest whole width of an interval that is narrow enough, as a fraction: 0.02 is 2 %.
        confidence: Confidence of the intervals.

    Returns:
        The effects, widest first.

    Raises:
        ValueError: The precision is not positive.
    """
    if precision <= 0:
        raise ValueError(f"precision must be positive, got {precision}")
    data = tidy(study)
    planned = dict(zip(study.runs["run_id"].astype(str), text(study.runs, f"params.{MODEL_PARAM}"), strict=True))
    runs = data.runs.assign(**{r.name: math.nan for r in RESPONSES if r.name != _RESPONSE})
    found = []
    for _, group in runs.groupby(["model", "dataset"], sort=False):
        measured = group.loc[group["outcome"].eq("finished") & group[_RESPONSE].gt(0), "block"]
        blocks = sorted(set(measured), key=lambda block: (len(block), block))  # numbers, as text
        rank = group["block"].map({block: i for i, block in enumerate(blocks)})
        wanted = range(min(FIRST_LOOK, len(blocks)), len(blocks) + 1) if blocks else ()
        looks = [_main_effects(group[rank < n], data.factors, confidence) for n in wanted]
        last = looks[-1] if looks else pd.DataFrame()
        widths = np.full((len(last), len(blocks)), np.nan)
        for n, look in zip(wanted, looks, strict=True):
            widths[:, n - 1] = look["width"].reindex(last.index)
        done = bool(precise(widths, precision).all(axis=0).any())
        of = group.iloc[0]
        for (term, row), ever in zip(last.iterrows(), widths, strict=True):
            more = (0, 0) if done else _further(ever, row["se"], row["dof"], precision, confidence)
            name = f"{term} on {of['model']}/{of['dataset']}"
            found.append(MainEffectPrecision(planned[of["run_id"]], of["dataset"], name, float(ever[-1]), *more))
    return sorted(found, key=lambda effect: -math.inf if math.isnan(effect.width) else -effect.width)


def _main_effects(runs: pd.DataFrame, factors: Sequence[Factor], confidence: float) -> pd.DataFrame:
    """Returns se, dof and width of the estimable main effects of a group, by term."""
    names = ["term", "kind", "estimable", "se", "dof"]
    rows = pd.DataFrame(group_rows(("", ""), runs, factors), columns=names).set_index("term")
    rows = rows[rows["kind"].eq("main") & rows["estimable"].astype(bool)]
    return rows.assign(width=np.expm1(2 * verdicts.half_widths(rows["se"], rows["dof"], confidence)))


def _further(
    widths: NDArray[np.float64], se: float, dof: float, precision: float, confidence: float
) -> tuple[int, int | None]:
    """Returns the fewest and the likely number of further blocks until an effect is precise.

    Args:
        widths: (n,) whole widths after 1 .. n blocks.
        se: Its standard error now, of the logarithm.
        dof: Degrees of freedom of that.
        precision: Largest width.
        confidence: Confidence of the intervals.
    """
    now = len(widths)
    if precise(widths, precision)[-1]:
        return 0, 0
    looks = np.flatnonzero(precise(widths, precision, further=0))
    began = int(looks[0]) + 1 if len(looks) else None
    narrow = float(verdicts.blocks_for_width(se, dof, now, math.log1p(precision), confidence)[0])
    if began is not None:
        least = max(began + FURTHER_BLOCKS - now, 1)
        return least, None if math.isnan(narrow) else max(least, int(narrow))
    wait = max(FIRST_LOOK - now, 1)
    return wait + FURTHER_BLOCKS, None if math.isnan(narrow) else max(wait, int(narrow)) + FURTHER_BLOCKS
