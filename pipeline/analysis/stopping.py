"""Whether enough blocks have been measured, and how many more would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis import verdicts
from pipeline.analysis.effects import Effects
from pipeline.analysis.responses import BY_NAME, RATIO


@dataclass(frozen=True)
class UndecidedEffect:
    """An effect whose interval is still too wide.

    Attributes:
        model, dataset, response, term: The effect.
        width: Whole width of its interval, a fraction: ratio - 1, or points / 100; NaN without an interval.
        further_blocks: Blocks that would make it narrow enough; None if unknown or too many.
    """

    model: str
    dataset: str
    response: str
    term: str
    width: float
    further_blocks: int | None


def undecided_effects(
    effects: Effects,
    precision: float = 0.02,
    *,
    kinds: Sequence[str] = ("main",),
    responses: Sequence[str] = ("train_seconds",),
) -> list[UndecidedEffect]:
    """Lists the effects whose interval is wider than the precision; a controller adds blocks until it is empty.

    Width is the whole interval, `high / low - 1` for ratios and `high - low` (points / 100) otherwise. An
    effect that no block can give (its cell ran out of memory) is left out, so that it cannot keep a
    controller busy for ever.

    Args:
        effects: The estimates of a study.
        precision: Largest width, as a fraction: 0.02 is 2 %.
        kinds: The kinds of effects that must be precise.
        responses: The responses that must be precise.

    Returns:
        The effects still too wide, widest first; empty when every interval is narrow enough.

    Raises:
        ValueError: The precision is not positive.
    """
    if precision <= 0:
        raise ValueError(f"precision must be positive, got {precision}")
    if effects.table.empty:
        return []
    wanted = effects.table["kind"].isin(kinds) & effects.table["response"].isin(responses)
    rows = effects.table[wanted & effects.details["estimable"].astype(bool)]
    found = []
    details = effects.details.loc[rows.index]
    for row, detail in zip(rows.to_dict("records"), details.to_dict("records"), strict=True):
        ratio = BY_NAME[row["response"]].unit == RATIO
        low, high = float(row["low"]), float(row["high"])
        width = high / low - 1 if ratio else (high - low) / 100
        if width <= precision:
            continue
        target = math.log1p(precision) if ratio else 100 * precision
        level = effects.options.confidence
        more = blocks_needed(float(detail["se"]), float(detail["dof"]), int(row["blocks"]), target, level)
        found.append(UndecidedEffect(row["model"], row["dataset"], row["response"], row["term"], width, more))
    return sorted(found, key=lambda u: (math.isnan(u.width), -u.width if not math.isnan(u.width) else 0.0))


def blocks_needed(se: float, dof: float, blocks: int, width: float, confidence: float = 0.95) -> int | None:
    """Plans how many further blocks bring an interval's whole width, on the analysis scale, below `width`.

    Args:
        se: Standard error now, on the analysis scale.
        dof: Its degrees of freedom now.
        blocks: Blocks run so far.
        width: Whole width to reach, on the analysis scale.
        confidence: Confidence of the interval.

    Returns:
        Further blocks, 0 if it is narrow enough; None if unknown or more than `verdicts.MAX_FURTHER_BLOCKS`.

    Examples:
        >>> blocks_needed(se=0.01, dof=14, blocks=3, width=0.02)
        9
        >>> blocks_needed(se=0.001, dof=14, blocks=3, width=0.02)
        0
    """
    more = float(verdicts.blocks_for_width(se, dof, blocks, width, confidence)[0])
    return None if math.isnan(more) else int(more)
