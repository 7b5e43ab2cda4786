"""The most that each technique could save, and the sentence that says so.

A technique can save no more than the share of the step that it acts on (Amdahl 1967); `saves` of its row in the table
of techniques names the phases of that share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.design.names import (
    BACKWARD,
    COMPUTE_PHASES,
    DATA_WAIT,
    FORWARD,
    H2D,
    IDLE,
    LAUNCHES,
    NO_BF16,
    OPTIMIZER,
)
from pipeline.design.techniques import TECHNIQUES

_PASSES = (FORWARD, BACKWARD)
_WORDS = {
    DATA_WAIT: "waiting for data",
    H2D: "copies",
    FORWARD: "the forward pass",
    BACKWARD: "the backward pass",
    OPTIMIZER: "the optimizer",
    IDLE: "idle time",
}


def ceiling(
    technique: str, shares: Mapping[str, float], level: str = "2", launch_bound: float | None = None
) -> float | None:
    """Returns the largest fraction of the time that a technique could save, from the budget without it.

    It is bounded by the whole share of the phases that the technique saves, or by the part of it that its row names:
    accumulating over n micro-batches runs the optimizer once instead of n times.

    Args:
        technique: Name of the technique.
        shares: Phase -> share of the step.
        level: Its level; what is not understood as one counts as the default.
        launch_bound: The fraction of forward, backward and optimizer that launching kernels bounds; None where it
            was not measured.

    Returns:
        A fraction; None for a technique that has no row, or whose phases were not measured.

    Examples:
        >>> shares = {"data_wait": 0.1, "h2d": 0.05, "forward": 0.25, "backward": 0.5, "optimizer": 0.1}
        >>> ceiling("amp", shares), ceiling("ga", shares, "4")
        (0.75, 0.07500000000000001)
    """
    row = TECHNIQUES.get(technique)
    if row is None:
        return None
    if row.saves == (LAUNCHES,):
        return _launches(shares, launch_bound)
    if any(phase not in shares for phase in row.saves if phase != IDLE):
        return None
    share = sum(shares.get(phase, 0.0) for phase in row.saves)
    return share if row.partly is None else share * row.partly.part(level)


def _launches(shares: Mapping[str, float], launch_bound: float | None) -> float | None:
    """Returns the share that launches of the two recorded passes can bound, with idle time.

    The measured fraction is one number for three phases; all of it may lie in the two passes, which have their own
    share at most.
    """
    if launch_bound is None or any(phase not in shares for phase in COMPUTE_PHASES):
        return None
    bounded = launch_bound * sum(shares[phase] for phase in COMPUTE_PHASES)
    return shares.get(IDLE, 0.0) + min(bounded, sum(shares[phase] for phase in _PASSES))


def percent_of(fraction: float) -> str:
    """Writes a fraction in percent."""
    return f"{100 * fraction:.1f} %"


def _measured(row: Mapping[Any, Any]) -> str:
    """Puts a measured simple or main effect on time in words, as the answer does."""
    how = "measured only on average over the other techniques" if row["kind"] == "main" else "measured"
    span = ", no interval: not replicated"
    if not math.isnan(float(row["low"])):
        span = f" [{1 / float(row['high']):.3f}, {1 / float(row['low']):.3f}]"
    return f"{how}: {1 / float(row['estimate']):.3f}x as fast{span}"


def bf16_reason(cpu_bf16: str, costs: bool) -> str:
    """Says why bfloat16 does not pay on a processor; empty where nothing is known to say.

    Args:
        cpu_bf16: The processor's instructions for it; `NO_BF16` without, empty where they are not known.
        costs: Whether it was measured to cost time.
    """
    if cpu_bf16 == NO_BF16:
        return "this CPU has no bf16 instructions: it computes in fp32, with conversions on top"
    if cpu_bf16 and costs:
        return f"this CPU has bf16 instructions ({cpu_bf16}), but converting costs this model more than they save"
    return ""


def sentence(
    technique: str,
    term: str,
    limit: float | None,
    control: bool,
    row: Mapping[Any, Any] | None,
    launching: float | None = None,
    known_reason: str = "",
) -> str:
    """Writes the one plain sentence about a technique in one model and dataset.

    Args:
        technique: Name of the technique.
        term: Its name with the level.
        limit: Largest fraction of the time that it can save, from `ceiling`; None if unknown.
        control: Whether it does nothing on this device.
        row: Its measured simple or main effect on the time; None where there is none.
        launching: The share of the step that launching kernels bounds, where that is the largest part; else None.
        known_reason: Why it cannot save what its ceiling would allow, where the machine tells; else empty.

    Returns:
        The sentence.
    """
    tail = f"; {_measured(row)}" if row is not None and not math.isnan(float(row["estimate"])) else ""
    if control:
        return f"{term}: an A/A control here, because it does nothing on this device{tail}."
    if known_reason:
        return f"{term}: {known_reason}{tail}."
    if limit is None:
        return f"{term}: no time budget says how much it could save{tail}."
    phases, partly, share = TECHNIQUES[technique].saves, TECHNIQUES[technique].partly, percent_of(limit)
    if not phases:
        return f"{term}: it takes no work out of a step, so it cannot save time; it lowers memory{tail}."
    if phases == (LAUNCHES,):
        return f"{term}: launching kernels bounds {share} of the step, so it can save at most about {share} here{tail}."
    if partly is not None:
        return f"{term}: {partly.by} can save at most about {share} of the step here{tail}."
    *others, last = (_WORDS[phase] for phase in phases)
    words = f"{', '.join(others)} and {last}" if others else last
    verb = "are" if others or phases == (H2D,) else "is"
    if launching is not None and set(phases) & set(COMPUTE_PHASES):
        tail = f", where launching kernels bounds {percent_of(launching)} of the step{tail}"
    return f"{term}: {words} {verb} {share} of the step, so it can save at most about {share} here{tail}."
