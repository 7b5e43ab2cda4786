"""The training input whose whole data set lies in device memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.training.data.batch import HostBatch
from pipeline.training.data.ordered import OrderedInput


class DeviceTrain(OrderedInput):
    """`device`: the training images lie on the device as uint8; batches are indexed there, without a copy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._there = torch.from_numpy(np.take(self._images, self.rows, axis=0)).to(self.device)
        self._labels_there = torch.from_numpy(self._labels).to(self.device)

    def epoch(self, epoch: int, sizes: Sequence[int], positions: torch.Tensor | None = None) -> Iterator[HostBatch]:
        """See `TrainInput.epoch`; the batches are on the device already."""
        return self._batches(self._begin(epoch, sizes, positions).to(self.device), sizes)

    def _batches(self, order: torch.Tensor, sizes: Sequence[int]) -> Iterator[HostBatch]:
        start = 0
        for size in sizes:
            rows = order[start : start + size]
            yield HostBatch(self._there.index_select(0, rows), self._labels_there.index_select(0, rows))
            start += size

    def to_device(self, batch: HostBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainInput.to_device`: nothing to do."""
        return batch.images, batch.labels

    def close(self) -> None:
        """See `TrainInput.close`."""
        self._there = self._labels_there = torch.empty(0)
