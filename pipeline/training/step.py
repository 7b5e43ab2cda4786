"""The window planner and the one optimizer-step function.

A window is the group of micro-batches whose gradients make one optimizer update. All windows of an epoch are
known before it starts, so nothing in the loop counts or takes a modulo, and the last, partial window and a short
last micro-batch are weighted exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.training.precision import Precision


@dataclass(frozen=True, slots=True)
class Window:
    """One accumulation window.

    Attributes:
        sizes: samples of each micro-batch, in order.
        weights: weight of each micro-batch's mean loss, for the share that one of several processes has of a window
            (see `data_parallel`); None for sizes / total.
        samples: samples of the whole window, for such a share; None for the sum of the sizes.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    samples: int | None = None

    @property
    def total(self) -> int:
        """Samples of the whole window, of all processes: the denominator of its mean loss."""
        return sum(self.sizes) if self.samples is None else self.samples

    @property
    def shares(self) -> tuple[float, ...]:
        """Weight of each micro-batch's mean loss; they add up to 1 (over all processes, to their number)."""
        if self.weights is not None:
            return self.weights
        total = self.total
        return tuple(size / total for size in self.sizes)


def plan_windows(samples: int, micro_batch: int, accumulation_steps: int) -> tuple[Window, ...]:
    """Plans the windows of one epoch; every sample is in exactly one.

    Args:
        samples: training samples in the epoch.
        micro_batch: samples per micro-batch; the last one may be shorter.
        accumulation_steps: micro-batches per window; the last window may have fewer.

    Raises:
        ValueError: an argument is below 1.
    """
    if min(samples, micro_batch, accumulation_steps) < 1:
        raise ValueError("samples, micro_batch and accumulation_steps must be at least 1")
    full, rest = divmod(samples, micro_batch)
    sizes = [micro_batch] * full + ([rest] if rest else [])
    starts = range(0, len(sizes), accumulation_steps)
    return tuple(Window(tuple(sizes[start : start + accumulation_steps])) for start in starts)


class Copier(Protocol):
    """The part of an input pipeline that the step uses."""

    def to_device(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Host-to-device copy of a micro-batch."""
        ...

    def prepare(self, images: Tensor) -> Tensor:
        """Augments and normalises on the device."""
        ...


class CapturedPasses(Protocol):
    """Forward and backward pass of one micro-batch in another form than eager calls (see `cuda_graphs`)."""

    def forward(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        """The micro-batch's mean loss times `share`."""
        ...

    def backward(self) -> None:
        """Adds the gradients of the micro-batch that `forward` took last."""
        ...


@dataclass(frozen=True)
class Learner:
    """What one optimizer step works on.

    Attributes:
        model: the model, as it is called.
        criterion: mean loss over the samples of (outputs, labels).
        optimizer: the optimizer of the model's parameters.
        schedule: learning-rate schedule, stepped after each real update.
        precision: autocast, scaler, and the order of an update.
        clip_norm: largest norm of all gradients together; None for no clipping.
        captured: replaces eager calls of model and criterion; None for eager calls.
        accumulating: `accumulating(model, more)` is the context of a micro-batch, `more` telling whether its window
            goes on: where several processes train together, gradients are exchanged with a window's last micro-batch
            only.
    """

    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    precision: Precision
    clip_norm: float | None
    captured: CapturedPasses | None = None
    accumulating: Callable[[nn.Module, bool], AbstractContextManager[Any]] = lambda _model, _more: nullcontext()

    def forward(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        """The micro-batch's mean loss times its share of the window; shape ()."""
        if self.captured is not None:
            return self.captured.forward(images, labels, share)
        with self.precision.autocast():
            loss = self.criterion(self.model(images), labels)
            return loss if share == 1 else loss * share  # two operations fewer in every step without accumulation

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of the loss that `forward` has just returned."""
        if self.captured is not None:
            self.captured.backward()
        else:
            self.precision.backward(loss)


def optimizer_step(
    learner: Learner,
    window: Window,
    batches: Iterator[Any],
    copier: Copier,
    end_phase: Callable[[str], None],
) -> Tensor:
    """Trains on one window: accumulates its gradients, then updates once.

    Each micro-batch's mean loss is weighted by its share of the window's samples, so the accumulated gradient
    is that of the concatenated batch. Nothing here waits for the device or reads from it.

    Args:
        learner: model, criterion (mean over the samples), optimizer, schedule, precision.
        window: the micro-batch sizes that `batches` will deliver next.
        batches: host micro-batches.
        copier: copies to the device and prepares there.
        end_phase: called with the name of the budget phase that has just ended.

    Returns:
        The window's mean loss, on the device, detached; shape ().
    """
    losses: list[Tensor] = []
    last = len(window.sizes) - 1
    for index, share in enumerate(window.shares):
        batch = next(batches)
        end_phase("data_wait")
        images, labels = copier.to_device(batch)
        end_phase("h2d")
        images = copier.prepare(images)
        end_phase("data_wait")
        with learner.accumulating(learner.model, index < last):
            loss = learner.forward(images, labels, share)
            end_phase("forward")
            learner.backward(loss)
            end_phase("backward")
        losses.append(loss.detach())
    learner.precision.update(learner.optimizer, learner.model, learner.clip_norm, learner.schedule.step)
    end_phase("optimizer")
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()
