"""Real training in turns: a run that stands still between them.

Cells of a design that take turns within seconds have the machine in the same state; cells that run one after the other
have not. What a turn is made of is what a run is made of (`trainer.EpochUpdates`): batches, copies, augmentation,
updates, schedule, epochs that follow each other. Nothing is evaluated, and the test set is never read.

While a run stands still its input pipeline reads ahead as far as it may, and caches forget it: the first windows of a
turn would have their data for nothing, or come slower than those of a run that goes on. So every turn begins with a
head that no clock sees, as long as what was read ahead, and on a CPU with a look at all weights.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.design.names import (
    COMPILE_SECONDS,
    EVAL_SECONDS,
    IMAGES_PER_SECOND,
    NOT_ENGAGED_TAG,
    RECIPE_IMAGES,
    TRAIN_SECONDS,
    UPDATES,
    UPDATES_PER_SECOND,
    WARMUP_SECONDS,
)
from pipeline.design.records import Metrics, Phase, Ready, Record, Tags, Turn, TurnOrder
from pipeline.design.spec import RunSpec
from pipeline.training.data.inputs import Inputs
from pipeline.training.meter import Meter
from pipeline.training.trainer import EpochUpdates, Run

# Of all turns together: what they take depends on how many there are, and the rates are each round's
_NOT_OF_TURNS = (TRAIN_SECONDS, EVAL_SECONDS, IMAGES_PER_SECOND, UPDATES_PER_SECOND)


@dataclass(frozen=True)
class TurnResult:
    """What one turn measured.

    Attributes:
        seconds: between two waits for the device.
        images: that were trained on meanwhile.
        updates: that were made meanwhile.
        joules: energy of the GPU meanwhile; None where its counter cannot tell.
    """

    seconds: float
    images: int
    updates: int
    joules: float | None


def train_in_turns(
    spec: RunSpec, model: nn.Module, inputs: Inputs, device: torch.device, orders: Iterable[TurnOrder]
) -> Generator[Record, None, None]:
    """Trains a cell turn by turn.

    Args:
        spec: the cell.
        model: the initialised model, on the CPU.
        inputs: the cell's training batches.
        device: where the model trains.
        orders: the turns; the next one is asked for when the one before is over, and waited for.

    Yields:
        Phase, the durations of the warm-up, `Ready`, one `Turn` for each order, what was seen of the techniques, and
        what all turns together measured.

    Raises:
        InputError: a turn does not fit into an epoch.
        ValueError: a turn ends within a window.
        DivergedError: a loss was infinite or no number.
    """
    yield Phase(time=time.time(), name="train")
    run = Run(spec, model, inputs, device)
    turns = Turns(run)
    meter = run.meter
    compiled = {COMPILE_SECONDS: meter.compile_seconds} if meter.compile_seconds else {}
    images = float(run.epoch_images * spec.recipe.epochs)
    values = {WARMUP_SECONDS: meter.warmup_seconds, RECIPE_IMAGES: images, **compiled}
    yield Metrics(time=time.time(), values=values)
    yield Ready(
        time=time.time(),
        epoch_images=run.epoch_images,
        ahead_images=inputs.train.ahead_batches * spec.recipe.batch_size,
        edge_seconds=turns.take(0, 0).seconds,
    )
    said = Tags(time=0.0, values={})
    for order in orders:
        found = turns.take(order.images, order.head)
        engaged = run.engaged()
        # first thing, since a cell may be killed; and again when it turns out to be otherwise
        if engaged.values.get(NOT_ENGAGED_TAG) != said.values.get(NOT_ENGAGED_TAG):
            yield (said := engaged)
        yield Turn(
            time=time.time(),
            number=order.number,
            seconds=found.seconds,
            images=found.images,
            updates=found.updates,
            joules=found.joules,
        )
    yield run.engaged()
    told = {*_NOT_OF_TURNS, *values}
    measured = {name: value for name, value in meter.summary().items() if name not in told}
    yield Metrics(time=time.time(), values={**measured, UPDATES: float(run.updates)})


class Turns:
    """A run's training, a turn at a time.

    Args:
        run: which has not trained yet.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._updates = self._endless()
        run.warm_up()
        self._unseen = Meter(run.device, 0, run.memory)

    def take(self, images: int, head: int) -> TurnResult:
        """Trains a head, then on so many images.

        Args:
            images: of the turn, a multiple of the run's windows wherever it begins.
            head: images before the clock starts, likewise: as many as the pipeline reads ahead, and what caches need.

        Raises:
            ValueError: no window ends with that image.
            DivergedError: a loss was infinite or no number.
        """
        run, meter = self._run, self._run.meter
        run.meter = self._unseen
        try:
            self._unseen.start_training()
            self._train(head)
            self._unseen.end_training()
        finally:
            run.meter = meter
        self._touch()
        meter.start_training()
        updates = self._train(images)
        seconds = meter.end_training()
        return TurnResult(seconds, images, updates, meter.phase_joules)

    def _touch(self) -> None:
        """Reads the state of the training once: on a CPU others have pushed it out of the caches meanwhile."""
        if self._run.device.type == "cpu":
            kept = [value for state in self._run.learner.optimizer.state.values() for value in state.values()]
            for tensor in (*self._run.model.parameters(), *filter(torch.is_tensor, kept)):
                tensor.detach().sum()

    def _train(self, images: int) -> int:
        """Trains on so many images; returns the number of updates."""
        done = updates = 0
        while done < images:
            done += next(self._updates)
            updates += 1
        if done != images:
            raise ValueError(f"a turn of {images} images does not end with a window: {done} were trained on")
        return updates

    def _endless(self) -> Iterator[int]:
        """Images of one update after the other; an epoch's losses are read with its last one, as in a run."""
        for epoch in itertools.count(1):
            updates = EpochUpdates(self._run, epoch)
            for made, images in enumerate(updates, start=1):
                if made == len(self._run.windows):
                    updates.mean_loss()
                yield images
