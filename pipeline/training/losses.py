"""Losses and weights that must stay finite; an epoch's training losses are kept on the device, read once at its end."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.training.step import Window


class DivergedError(Exception):
    """A loss or a weight is no finite number any more."""


class WindowLosses:
    """The mean losses of an epoch's windows, kept on the device.

    They are written to their tensor some at a time: one write costs as much as a small layer.

    Args:
        most: number of windows in the epoch.
        device: where the losses are.
    """

    GROUP = 64

    def __init__(self, most: int, device: torch.device) -> None:
        self._written = torch.zeros(most, device=device)
        self._count = 0
        self._waiting: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Takes the next window's loss, shape ()."""
        self._waiting.append(loss)
        if len(self._waiting) == self.GROUP:
            self._write()

    def all(self) -> Tensor:
        """All losses so far, float32 (windows,)."""
        self._write()
        return self._written[: self._count]

    def _write(self) -> None:
        if self._waiting:
            stop = self._count + len(self._waiting)
            self._written[self._count : stop] = torch.stack(self._waiting)
            self._count = stop
            self._waiting.clear()


def mean_loss(losses: Tensor, windows: tuple[Window, ...], updated: list[bool], epoch: int) -> float:
    """Mean training loss per sample over the windows that updated the model.

    A window whose update the gradient scaler skipped may have an infinite loss; any other may not. Where every
    update was skipped (the scaler is still looking for its scale), it is the mean over all windows.

    Args:
        losses: each window's mean loss, on the host; shape (windows,).
        windows: the epoch's windows.
        updated: whether each window's update was made.
        epoch: number of the epoch, from 1, for the message.

    Raises:
        DivergedError: a loss is infinite or no number.
    """
    counted = updated if any(updated) else [True] * len(updated)
    total = weight = 0.0
    for step, (loss, window, made) in enumerate(zip(losses.tolist(), windows, counted, strict=True), start=1):
        if made and not math.isfinite(loss):
            raise DivergedError(f"loss is {loss} in epoch {epoch}, step {step} of {len(windows)}")
        if made:
            total += loss * window.total
            weight += window.total
    return total / weight


def check_loss(name: str, loss: float, epoch: int) -> None:
    """Refuses a loss of evaluation that tells that the updates before it have ruined the model.

    Args:
        name: whose loss it is, for the message.
        loss: the loss.
        epoch: the last epoch before it, from 1.

    Raises:
        DivergedError: it is infinite or no number.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"{name} loss is {loss} after epoch {epoch}")


def check_weights(model: nn.Module, epoch: int) -> None:
    """Refuses a model that its last updates have ruined, which no later loss would show.

    Args:
        model: the model; its parameters and its statistics of BatchNorm are looked at, not its other buffers, whose
            infinities may be meant (masks of attention).
        epoch: the last epoch, from 1.

    Raises:
        DivergedError: a value is infinite or no number; names the first tensor that has one.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors |= {f"{name}.{key}": value for key, value in module.named_buffers(recurse=False)}
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in tensors.values()])  # one wait for the device
    ruined = [name for name, whole in zip(tensors, finite.tolist(), strict=True) if not whole]
    if ruined:
        raise DivergedError(f"weights are not finite after epoch {epoch} ({ruined[0]}, {len(ruined)} tensors in all)")
