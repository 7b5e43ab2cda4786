"""When a run ends: after its recipe's epochs, or, for a measured trial, as its probe says. Whole windows only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pipeline.design.names import RATE_HALF_WIDTH, TARGET_SECONDS, VAL_ACCURACY
from pipeline.design.spec import Probe, Recipe
from pipeline.training.meter import Meter
from pipeline.training.throughput import rate

W = TypeVar("W")
UNLIMITED_EPOCHS = 100_000  # where the probe's interval ends the run
# The interval is looked at each time that the number of windows has grown by this factor: the fewer looks, the smaller
# the chance that one of them sees a narrow interval by luck.
LOOK_AGAIN = 1.15


class StopRule:
    """The end of one run.

    Args:
        recipe: recipe of the run; `epochs` and `eval_every` are read.
        probe: how a trial is measured; None for a full run.
        samples: training samples in an epoch.
        endless: whether there is no end, and the epochs of the recipe are no limit.

    Attributes:
        epochs: most epochs that the run can have.
        over: whether the run has ended.
    """

    def __init__(self, recipe: Recipe, probe: Probe | None, samples: int, *, endless: bool = False) -> None:
        self._probe = probe
        self.epochs = UNLIMITED_EPOCHS if endless else recipe.epochs
        if probe is not None and probe.max_samples is not None:
            self.epochs = math.ceil(probe.max_samples / samples)
        elif probe is not None and probe.interval is not None:
            self.epochs = UNLIMITED_EPOCHS
        self._every = recipe.eval_every
        self._windows = self._samples = 0
        self._next_look = 0
        self.over = False

    def reached(self, windows: Sequence[W]) -> Sequence[W]:
        """Those windows of an epoch that the run can get to."""
        most = self._probe.max_windows if self._probe is not None else None
        return windows if most is None else windows[:most]

    def stops_after_window(self, images: int, meter: Meter) -> bool:
        """Counts the window of `images` samples that has just been made; whether the run ends with it."""
        probe = self._probe
        if probe is None:
            return False
        self._windows += 1
        self._samples += images
        self.over = (
            (probe.max_windows is not None and self._windows >= probe.max_windows)
            or (probe.max_samples is not None and self._samples >= probe.max_samples)
            or (probe.max_seconds is not None and meter.elapsed >= probe.max_seconds)
            or (probe.interval is not None and self._narrow(probe.interval, meter))
        )
        return self.over

    def _narrow(self, interval: float, meter: Meter) -> bool:
        if self._windows < self._next_look:
            return False
        self._next_look = math.ceil(self._windows * LOOK_AGAIN)
        seconds, images, _ = meter.steady()
        half = rate(seconds, images).half_width if len(seconds) else None
        return half is not None and 2 * half < interval

    def validates(self, epoch: int) -> bool:
        """Whether the validation split is read after this epoch (1-based)."""
        if self._probe is not None and not self._probe.validate_epochs:
            return False
        return self.over or epoch % self._every == 0 or epoch == self.epochs

    def stops_after_epoch(self, values: Mapping[str, float]) -> bool:
        """Whether the run ends with the epoch that has these metrics."""
        target = self._probe.target_accuracy if self._probe is not None else None
        if target is not None and values.get(VAL_ACCURACY, 0.0) >= target:
            self.over = True
        return self.over

    def summary(self, meter: Meter, values: Mapping[str, float]) -> dict[str, float]:
        """Summary metrics that measured trials alone have.

        Args:
            meter: the run's meter.
            values: metrics of the run's last epoch.

        Returns:
            Half the interval's width as a share of the rate, and the training time to the target accuracy, s, as far
            as there are such; empty for a full run.
        """
        if self._probe is None:
            return {}
        figures: dict[str, float] = {}
        seconds, images, _ = meter.steady()
        half = rate(seconds, images).half_width if len(seconds) and seconds.sum() > 0 else None
        if half is not None:
            figures[RATE_HALF_WIDTH] = half
        target = self._probe.target_accuracy
        if target is not None and values.get(VAL_ACCURACY, 0.0) >= target:
            figures[TARGET_SECONDS] = meter.train_seconds
        return figures
