"""The contenders that need nothing installed: a bare loop, ablate's trainer, and timm's pieces. In a child process."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bench.loops.interleave import give_way
from pipeline.bench.loops.workload import DATASET, LEARNING_RATE, MOMENTUM, Work, loader
from pipeline.design.records import Metrics
from pipeline.training.data import inputs
from pipeline.training.data.batch import HostBatch
from pipeline.training.data.inputs import TrainInput
from pipeline.training.data.store import ImageStore
from pipeline.training.trainer import train


class Contender(Protocol):
    """One way to do the work.

    Attributes:
        model: the plain model that it trains.
    """

    model: nn.Module

    def epoch(self, number: int) -> float:
        """Trains over the work's images once, in the order of epoch `number`; gives way before every batch.

        Returns:
            Seconds, without those of the others' turns.
        """
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class Bare:
    """The fastest honest loop: index, normalise, forward, backward, step. No loss is kept, nothing is measured."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.model = work.model()
        self._optimizer = work.optimizer(self.model)

    def epoch(self, number: int) -> float:
        """See `Contender.epoch`."""
        return self._work.timed(lambda: self._epoch(number))

    def _epoch(self, number: int) -> None:
        work, model, optimizer, batch = self._work, self.model, self._optimizer, self._work.case.batch
        images, labels = work.images, work.labels
        order = work.order(number).to(work.device)
        plain = work.case.precision == "fp32"
        model.train()
        for start in range(0, len(order), batch):
            give_way()
            rows = order[start : start + batch]
            x = work.normalised(images[rows])
            if plain:
                loss = nn.functional.cross_entropy(model(x), labels[rows])
            else:
                with work.autocast():
                    loss = nn.functional.cross_entropy(model(x), labels[rows])
            optimizer.zero_grad()
            cast(Any, loss).backward()
            optimizer.step()

    def close(self) -> None:
        """Nothing is held."""


class Polite:
    """A training input whose consumer gives way before every batch."""

    def __init__(self, train: TrainInput) -> None:
        self._train = train
        self.num_samples, self.ahead_batches = train.num_samples, train.ahead_batches
        self.to_device, self.prepare, self.close = train.to_device, train.prepare, train.close

    def epoch(self, epoch: int, sizes: Sequence[int], positions: Tensor | None = None) -> Iterator[HostBatch]:
        """See `TrainInput.epoch`."""
        batches = self._train.epoch(epoch, sizes, positions)
        while True:
            give_way()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch


class Ablate:
    """ablate's trainer, whole: the generator is driven from one epoch's record to the next."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.model = work.model()
        pixels, labels = work.raw
        names = tuple(str(number) for number in range(work.case.classes))
        # nothing is tested: one image of each class keeps the split happy
        test = np.arange(work.case.classes, dtype=np.int64)
        store = ImageStore(DATASET, names, pixels, labels, pixels[: len(test)], test, digest="")
        made = inputs.build_inputs(work.spec, store, work.device)
        self._inputs = replace(made, train=Polite(made.train))
        self._records: Generator[Any, None, Any] = train(work.spec, self.model, self._inputs, work.device)
        self._done = 0

    def epoch(self, number: int) -> float:
        """See `Contender.epoch`. Its epochs come in order."""
        if number != self._done + 1:
            raise ValueError(f"epoch {number} after {self._done}")
        self._done = number
        return self._work.timed(self._epoch)

    def _epoch(self) -> None:
        while True:
            record = next(self._records)
            if isinstance(record, Metrics):
                return

    def close(self) -> None:
        """Ends the generator and its input."""
        self._records.close()
        self._inputs.close()


class Timm:
    """timm's way: optimizer factory, update-wise scheduler, meters, and the order of its `train_one_epoch`.

    The loss is read for the meter in every step, as timm's script does outside of distributed training. The script's
    wait for the device after every step (`--synchronize-step`) is off by default, and here.
    """

    def __init__(self, work: Work) -> None:
        from timm import optim, scheduler

        self._work = work
        self.model = work.model()
        self._optimizer = cast(Any, optim).create_optimizer_v2(
            self.model, opt="sgd", lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0
        )
        self._loader, self._sampler = loader(work)
        # a constant rate: no decay is ever reached, but the scheduler is asked at every update
        self._scheduler, _ = cast(Any, scheduler).create_scheduler_v2(
            self._optimizer,
            sched="step",
            num_epochs=work.spec.recipe.epochs,
            decay_epochs=work.spec.recipe.epochs,
            updates_per_epoch=work.case.windows,
            step_on_epochs=False,
        )
        self._loss = nn.CrossEntropyLoss()

    def epoch(self, number: int) -> float:
        """See `Contender.epoch`."""
        self._sampler.epoch = number
        return self._work.timed(lambda: self._epoch(number))

    def _epoch(self, number: int) -> None:
        from timm import utils

        work = self._work
        meter: Any = utils.AverageMeter  # type: ignore[attr-defined]
        batch_time, data_time, losses = meter(), meter(), meter()
        self.model.train()
        end = time.time()
        updates = number * len(self._loader)
        for images, labels in self._loader:
            images, labels = images.to(work.device), labels.to(work.device)
            data_time.update(time.time() - end)
            with self._autocast():
                loss = self._loss(self.model(work.normalised(images)), labels)
            losses.update(loss.item(), images.size(0))
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            updates += 1
            batch_time.update(time.time() - end)
            self._scheduler.step_update(num_updates=updates, metric=losses.avg)
            end = time.time()

    def _autocast(self) -> AbstractContextManager[Any]:
        from contextlib import nullcontext

        return nullcontext() if self._work.case.precision == "fp32" else self._work.autocast()

    def close(self) -> None:
        """Nothing is held."""


BUILT_IN: dict[str, Callable[[Work], Contender]] = {"ablate": Ablate, "bare": Bare, "timm": Timm}


def weights(model: nn.Module) -> Tensor:
    """All parameters as one vector, float64, on the CPU."""
    return torch.cat([parameter.detach().double().cpu().flatten() for parameter in model.parameters()])
