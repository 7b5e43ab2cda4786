"""What one trial of a search came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.tuning.space import Config


@dataclass(frozen=True)
class Finding:
    """What one trial came to.

    Attributes:
        number: of the trial.
        config: what was measured.
        outcome: of its run (`spec.Outcome`), or `pruned`.
        feasible: whether it met all constraints.
        objectives: the values of the objectives; None without a measurement.
        values: all metrics.
    """

    number: int
    config: Config
    outcome: str
    feasible: bool
    objectives: tuple[float, ...] | None
    values: Mapping[str, float]
