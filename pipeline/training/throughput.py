"""Throughput in steady state with its interval, from the windows of one run.

Windows of one run are not independent: clocks, caches and neighbours change over many of them, and the last window
of each epoch is a short one. Consecutive windows are therefore put together into batches (Schmeiser 1982, Operations
Research 30(3): 10 to 30 batches lose little), and the rate, a ratio of two sums, gets the standard error of a ratio
estimator over the batches (Cochran, Sampling Techniques, 3rd ed., section 6.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BATCHES = 20
# Student's t, 97.5 %, BATCHES - 1 degrees of freedom: a constant, since this room may not import `analysis.student_t`
T_QUANTILE = 2.0930240544
SHORTEST_BATCH = 0.04  # seconds: disturbances of a shared machine last for milliseconds

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A rate and how well it is known.

    Attributes:
        images_per_second: images in a second of steady-state training.
        half_width: half the width of the rate's 95 % interval, as a share of the rate; None for too few windows.
    """

    images_per_second: float
    half_width: float | None


def rate(seconds: _Floats, images: _Floats) -> Rate:
    """Estimates a steady-state rate.

    Args:
        seconds: durations of consecutive windows, s, shape (n,).
        images: images of these windows, shape (n,).

    Raises:
        ValueError: there are no windows, or they took no time.
    """
    if not len(seconds) or seconds.sum() <= 0:
        raise ValueError("no windows to take a rate from")
    ratio = float(images.sum() / seconds.sum())
    if len(seconds) < BATCHES or seconds.sum() < BATCHES * SHORTEST_BATCH:
        return Rate(ratio, None)
    edges = np.linspace(0, len(seconds), BATCHES + 1).astype(int)
    time, count = np.add.reduceat(seconds, edges[:-1]), np.add.reduceat(images, edges[:-1])
    residuals = count - ratio * time
    error = math.sqrt(float((residuals**2).sum()) / (BATCHES * (BATCHES - 1))) / float(time.mean())
    return Rate(ratio, T_QUANTILE * error / ratio)
