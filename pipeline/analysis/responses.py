"""The measured responses: on which scale each is analysed, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

RATIO, POINTS = "ratio", "points"


@dataclass(frozen=True)
class Response:
    """One response of the experiment.

    Attributes:
        name: Name in effects.csv.
        title: Name for people.
        unit: `ratio` (analysed as a logarithm, reported as on / off) or `points` (percentage points, on -
            off).
        higher_is_better: The direction that pays.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool

    def to_scale(self, values: pd.Series) -> pd.Series:
        """Maps raw values to the analysis scale; what has no logarithm becomes NaN."""
        if self.unit == POINTS:
            return 100.0 * values
        return pd.Series(np.log(values.where(values > 0)), index=values.index)

    def level(self, value: float) -> float:
        """Maps a mean on the analysis scale back to a raw value (a geometric mean for ratios)."""
        return math.exp(value) if self.unit == RATIO else value / 100.0


RESPONSES = (
    Response("train_seconds", "training time", RATIO, False),
    Response("images_per_second", "throughput", RATIO, True),
    Response("gpu_peak_allocated_mib", "peak GPU memory", RATIO, False),
    Response("gpu_joules", "GPU energy", RATIO, False),
    Response("accuracy", "test accuracy", POINTS, True),
    Response("f1_macro", "macro F1", POINTS, True),
)
BY_NAME = {response.name: response for response in RESPONSES}
