"""The measured responses: on which scale each is analysed, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.analysis.variance import BLOCKS_FOR_CR2

RATIO, POINTS = "ratio", "points"
INFINITE = 1e300  # MLflow's SQL stores keep an infinity as 1.8e308, the largest double


@dataclass(frozen=True)
class Response:
    """One response of the experiment.

    Attributes:
        name: Name in effects.csv.
        title: Name for people.
        unit: `ratio` (analysed as a logarithm, reported as on / off) or `points` (percentage points, on -
            off).
        higher_is_better: The direction that pays.
        by_block_from: Blocks from which on errors are by block. Runs of one block that are the same computation are
            copies of accuracy, not replicates: two are enough there.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    by_block_from: int = BLOCKS_FOR_CR2

    def to_scale(self, values: pd.Series) -> pd.Series:
        """Maps raw values to the analysis scale; what has no logarithm becomes NaN."""
        if self.unit == POINTS:
            return 100.0 * values
        return pd.Series(np.log(values.where(values > 0)), index=values.index)

    def invalid(self, values: pd.Series) -> pd.Series:
        """Names what keeps recorded values of a ratio from having a logarithm; empty text where nothing does.

        What is no number cannot be told from what was not recorded: only of the training time, which every finished
        run has, it is `unknown`.

        Examples:
            >>> BY_NAME["gpu_joules"].invalid(pd.Series([5.0, 0.0, -1.0, math.inf, math.nan])).tolist()
            ['', 'zero', 'negative', 'infinite', '']
        """
        raw = pd.to_numeric(values, errors="coerce").astype(float)
        found = {"infinite": raw.abs() >= INFINITE, "zero": raw == 0, "negative": raw < 0}
        if self.name == "train_seconds":
            found["unknown"] = raw.isna()
        return pd.Series(np.select(list(found.values()), list(found), ""), index=values.index)

    def level(self, value: float) -> float:
        """Maps a mean on the analysis scale back to a raw value (a geometric mean for ratios)."""
        return math.exp(value) if self.unit == RATIO else value / 100.0


RESPONSES = (
    Response("train_seconds", "training time", RATIO, False),
    Response("seconds_to_target", "time to the target accuracy", RATIO, False, by_block_from=2),
    Response("images_per_second", "throughput", RATIO, True),
    Response("gpu_peak_allocated_mib", "peak GPU memory", RATIO, False),
    Response("gpu_joules", "GPU energy", RATIO, False),
    Response("accuracy", "test accuracy", POINTS, True, by_block_from=2),
    Response("f1_macro", "macro F1", POINTS, True, by_block_from=2),
)
BY_NAME = {response.name: response for response in RESPONSES}
