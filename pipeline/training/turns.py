"""Real training in turns: a run that stands still between them.

Cells of a design that take turns within seconds have the machine in the same state; cells that run one after the other
have not. What a turn is made of is what a run is made of (`trainer.EpochUpdates`): batches, copies, augmentation,
updates, schedule, epochs that follow each other. Nothing is evaluated, and the test set is never read.

While a run stands still its input pipeline reads ahead as far as it may, and caches forget it: the first windows of a
turn would have their data for nothing, or come slower than those of a run that goes on. So every turn begins with a
head that no clock sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.training.trainer import EpochUpdates, Run


@dataclass(frozen=True)
class TurnResult:
    """What one turn measured.

    Attributes:
        seconds: between two waits for the device.
        images: that were trained on meanwhile.
        updates: that were made meanwhile.
    """

    seconds: float
    images: int
    updates: int


class Turns:
    """A run's training, a turn at a time.

    Args:
        run: which has not trained yet.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._updates = self._endless()
        run.warm_up()

    def take(self, images: int, head: int) -> TurnResult:
        """Trains a head, then on so many images.

        Args:
            images: of the turn, a multiple of the run's windows wherever it begins.
            head: windows before the clock starts: as many as the pipeline reads ahead, and what caches need.

        Raises:
            ValueError: no window ends with that image.
            DivergedError: a loss was infinite or no number.
        """
        meter = self._run.meter
        for _ in range(head):
            next(self._updates)
        meter.start_training()
        done = updates = 0
        while done < images:
            done += next(self._updates)
            updates += 1
        seconds = meter.end_training()
        if done != images:
            raise ValueError(f"a turn of {images} images does not end with a window: {done} were trained on")
        return TurnResult(seconds, done, updates)

    def _endless(self) -> Iterator[int]:
        """Images of one update after the other; an epoch's losses are read with its last one, as in a run."""
        for epoch in itertools.count(1):
            updates = EpochUpdates(self._run, epoch)
            for made, images in enumerate(updates, start=1):
                if made == len(self._run.windows):
                    updates.mean_loss()
                yield images
