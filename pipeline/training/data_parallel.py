"""The processes that train one cell together, as one of them sees it: its share of each window, and what they sum up.

`batch_size` is the micro-batch of all processes together, so the effective batch, the windows and the updates are
those of one process, and the gradient is the same (up to rounding) for models without BatchNorm, whose statistics
are each process's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from pipeline.design.names import GPU_JOULES, GPU_PEAK_ALLOCATED, GPU_PEAK_RESERVED, GPU_PROCESS, HOST_PEAK_RSS
from pipeline.training.step import Window

# only a hang ends here: ranks wait for rank 0 while it evaluates, and a rank that dies ends the run at once
COLLECTIVE_TIMEOUT = timedelta(hours=24)
SUMMED = (GPU_JOULES, HOST_PEAK_RSS)
LARGEST = (GPU_PEAK_ALLOCATED, GPU_PEAK_RESERVED, GPU_PROCESS)


class BatchSource(Protocol):
    """The part of a training input that a process group needs."""

    def epoch(self, epoch: int, sizes: Sequence[int], positions: Tensor | None = None) -> Iterator[Any]:
        """See `data.inputs.TrainInput`."""
        ...


def split_batch(samples: int, size: int) -> tuple[int, ...]:
    """Splits a micro-batch over `size` ranks: the first ones take part, with at least two samples each.

    One sample alone has no batch statistics: a layer that needs them would fail where one process does not.
    """
    taking_part = min(size, max(1, samples // 2))
    share, more = divmod(samples, taking_part)
    return tuple(share + (rank < more) if rank < taking_part else 0 for rank in range(size))


def rank_windows(windows: Sequence[Window], rank: int, size: int) -> tuple[tuple[Window, ...], Tensor]:
    """A rank's part of the global windows.

    Ranks average their gradients over all ranks, so each part is weighted by `size` times its share of the window's
    samples. A rank without samples in a micro-batch goes through its first ones with weight 0: it takes part in the
    collective operations of the update.

    Args:
        windows: windows of an epoch, for all ranks together.
        rank: number of this process, from 0.
        size: number of processes.

    Returns:
        The windows, and the positions of their samples in the epoch's order: int64 (samples of this rank,).
    """
    own, positions, start = [], [], 0
    for window in windows:
        sizes, weights = [], []
        for samples in window.sizes:
            counts = split_batch(samples, size)
            first = start + sum(counts[:rank])
            count, weight = counts[rank], size * counts[rank] / window.total
            if count == 0:
                first, count = start, min(samples, 2)
            sizes.append(count)
            weights.append(weight)
            positions.append(torch.arange(first, first + count))
            start += samples
        own.append(Window(tuple(sizes), tuple(weights), window.total))
    return tuple(own), torch.cat(positions)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run and this one's number among them; by default it is alone.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that reports, evaluates and saves."""
        return self.rank == 0

    @classmethod
    def join(cls, cuda: bool) -> ProcessGroup:
        """Joins the processes that the elastic agent has started; waits for all of them."""
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=COLLECTIVE_TIMEOUT)
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def share(
        self, windows: tuple[Window, ...]
    ) -> tuple[tuple[Window, ...], Callable[[BatchSource, int], Iterator[Any]]]:
        """This process's part of the windows, and a function that starts an epoch of its batches."""
        if self.size == 1:
            sizes = [size for window in windows for size in window.sizes]
            return windows, lambda source, epoch: iter(source.epoch(epoch, sizes))
        own, positions = rank_windows(windows, self.rank, self.size)
        own_sizes = [size for window in own for size in window.sizes]
        return own, lambda source, epoch: iter(source.epoch(epoch, own_sizes, positions))

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model that averages its gradients over the processes in its backward pass."""
        if self.size == 1:
            return model
        devices = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes, in each of them."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size
        return values

    def combined(self, values: Mapping[str, float]) -> dict[str, float]:
        """Energy and host memory of all processes together, and the largest GPU memory of any; empty when alone."""
        if self.size == 1:
            return {}
        ranks: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(ranks, dict(values))
        summed = {name: sum(own[name] for own in ranks) for name in SUMMED if all(name in own for own in ranks)}
        largest = {name: max(own[name] for own in ranks) for name in LARGEST if all(name in own for own in ranks)}
        return {**summed, **largest}


SINGLE_PROCESS = ProcessGroup()


def accumulating(model: nn.Module, more: bool) -> AbstractContextManager[Any]:
    """The context of one micro-batch: gradients stay with each process while `more` of the window is to come."""
    if more and isinstance(model, nn.parallel.DistributedDataParallel):
        return cast(AbstractContextManager[Any], model.no_sync())
    return nullcontext()
