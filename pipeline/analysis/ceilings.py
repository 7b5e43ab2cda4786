"""The most that each technique could save, and the sentence that says so.

A technique can save no more than the share of the step that it acts on (Amdahl 1967); the table names that share
for every technique.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MATH = ("forward", "backward")
COMPUTE = (*MATH, "optimizer")
# Not a phase: the time in which the device has nothing to do but what the host launches just then.
LAUNCHES = "launches"
_WORDS = {
    "data_wait": "waiting for data",
    "h2d": "copies",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer",
    "idle": "idle time",
}
# What each technique of the table of techniques acts on; nothing for those that take no work out of a step. ga is
# apart: it skips a known part of the optimizer's work.
CEILINGS: Mapping[str, tuple[str, ...]] = {
    "pm": ("h2d",),
    "pin_only": ("h2d",),
    "non_blocking_only": ("h2d",),
    "device_data": ("data_wait", "h2d"),
    "amp": MATH,
    "bf16": MATH,
    "tf32": MATH,
    "channels_last": MATH,
    "compile": (*COMPUTE, "idle"),
    "cuda_graph": (LAUNCHES,),
    "fused": ("optimizer", "idle"),
    "ga": ("optimizer", "idle"),
    "ga_fixed": (),
    "grad_checkpoint": (),
}


def ceiling(
    technique: str, shares: Mapping[str, float], level: str = "2", launch_bound: float | None = None
) -> float | None:
    """Give the largest fraction of the time that a technique could save, from the budget without it.

    Accumulating over n micro-batches runs the optimizer once instead of n times, so it can save 1 - 1/n of
    its share and of the idle time; all others are bounded by the whole share of the phases they act on.

    Args:
        technique: Its name.
        shares: Phase -> share of the step.
        level: The accumulation factor for ``ga``; "on" means 2, the first study's value.
        launch_bound: The fraction of forward, backward and optimizer that launching kernels bounds; None where it
            was not measured.

    Returns:
        A fraction; None for a technique whose phases are not known or were not measured.
    """
    phases = CEILINGS.get(technique)
    if phases is None:
        return None
    if phases == (LAUNCHES,):
        return _launches(shares, launch_bound)
    if any(phase not in shares for phase in phases if phase != "idle"):
        return None
    share = sum(shares.get(phase, 0.0) for phase in phases)
    if technique == "ga":
        try:
            count = float(level)
        except ValueError:
            count = 2.0
        return share * (1.0 - 1.0 / max(count, 1.0))
    return share


def _launches(shares: Mapping[str, float], launch_bound: float | None) -> float | None:
    """Give the share that launches of the two recorded passes can bound, with idle time.

    The measured fraction is one number for three phases; all of it may lie in the two passes, which have their own
    share at most.
    """
    if launch_bound is None or any(phase not in shares for phase in COMPUTE):
        return None
    bounded = launch_bound * sum(shares[phase] for phase in COMPUTE)
    return shares.get("idle", 0.0) + min(bounded, sum(shares[phase] for phase in MATH))


def percent_of(fraction: float) -> str:
    """Write a fraction in percent."""
    return f"{100 * fraction:.1f} %"


def _measured(row: Mapping[Any, Any]) -> str:
    """Put a measured simple or main effect on time in words."""
    change = 100 * (1 - float(row["estimate"]))
    word = "saved" if change >= 0 else "cost"
    if math.isnan(float(row["low"])):
        return f"measured: it {word} {abs(change):.1f} % of the time (no interval: not replicated)"
    ends = sorted((100 * (1 - float(row["high"])), 100 * (1 - float(row["low"]))))
    span = f"interval of the saving {ends[0]:.1f} to {ends[1]:.1f} %"
    return f"measured: it {word} {abs(change):.1f} % of the time ({span})"


def sentence(
    technique: str,
    term: str,
    limit: float | None,
    control: bool,
    row: Mapping[Any, Any] | None,
    launching: float | None = None,
) -> str:
    """Write the one plain sentence about a technique in one model and dataset.

    Args:
        technique: Its name.
        term: Its name with the level.
        limit: From :func:`ceiling`.
        control: It does nothing on this device.
        row: Its measured effect on the time; None where there is none.
        launching: The share of the step that launching kernels bounds, where that is the largest part; else None.

    Returns:
        The sentence.
    """
    tail = f"; {_measured(row)}" if row is not None and not math.isnan(float(row["estimate"])) else ""
    if control:
        return f"{term}: an A/A control here, because it does nothing on this device{tail}."
    if limit is None:
        return f"{term}: no time budget says how much it could save{tail}."
    phases, share = CEILINGS[technique], percent_of(limit)
    if not phases:
        return f"{term}: it takes no work out of a step, so it cannot save time; it lowers memory{tail}."
    if phases == (LAUNCHES,):
        return f"{term}: launching kernels bounds {share} of the step, so it cannot save more than {share} here{tail}."
    if technique == "ga":
        return f"{term}: fewer optimizer steps can save {share} of the step at most here{tail}."
    *others, last = (_WORDS[phase] for phase in phases)
    words = f"{', '.join(others)} and {last}" if others else last
    verb = "are" if others or phases == ("h2d",) else "is"
    if launching is not None and set(phases) & set(COMPUTE):
        tail = f", where launching kernels bounds {percent_of(launching)} of the step{tail}"
    return f"{term}: {words} {verb} {share} of the step, so it cannot save more than {share} here{tail}."
