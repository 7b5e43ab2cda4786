"""The training input whose batches come in the order of the epoch: what `gather` and `device` share."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.design.spec import Recipe
from pipeline.training.data.batch import check_sizes
from pipeline.training.data.split import Indices, Labels, epoch_order
from pipeline.training.data.transforms import BatchTransform, Draws

Images = npt.NDArray[np.uint8]


@dataclass(eq=False, repr=False)
class OrderedInput:
    """What `gather` and `device` share: the epoch's order and augmentation, and `prepare`.

    Attributes:
        images: images of the data set, uint8 (N, height, width, 3); may be a memory map.
        labels: their labels, int64 (N,).
        rows: rows of the images that are trained on, int64 (num_samples,).
        recipe: recipe of the run.
        dataset: name of the data set, for the normalisation.
        seed: seed of order and augmentation.
        device: where the model trains.
        num_samples: training images of an epoch.
        ahead_batches: see `TrainInput`.
    """

    ahead_batches: ClassVar[int] = 0

    images: Images
    labels: Labels
    rows: Indices
    recipe: Recipe
    dataset: str
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        self.num_samples = len(self.rows)
        self._transform = BatchTransform(self.recipe, self.dataset, self.device, augment=True)
        self._draws: Draws | None = None
        self._cursor = -1
        _read_ahead(self.images)
        # plain views: numpy's memmap subclass costs microseconds in every call
        self._images: Images = np.asarray(self.images)
        self._labels: Labels = np.asarray(self.labels)[self.rows]

    def _begin(self, epoch: int, sizes: Sequence[int], positions: torch.Tensor | None) -> torch.Tensor:
        """Starts an epoch; returns where its samples are among `rows`.

        Args:
            epoch: number of the epoch.
            sizes: samples of each micro-batch.
            positions: positions in the epoch's order that are asked for, int64 (m,); None for all.

        Returns:
            int64 (num_samples,), or (m,).
        """
        check_sizes(sizes, self.num_samples)
        self._draws = self._transform.draw(self.num_samples, self.seed, epoch)
        self._cursor = 0
        order = epoch_order(self.num_samples, self.seed, epoch)
        if positions is None:
            return order
        self._draws = None if self._draws is None else self._draws.at(positions)
        return order[positions]

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """See `TrainInput.prepare`. Batches come in order: the n-th call in an epoch is its n-th batch.

        Raises:
            RuntimeError: no epoch has been started, or it is over.
        """
        return self._transform(images, self._draws, self._advance(len(images)))

    def _advance(self, count: int) -> int:
        """Moves on by a batch of `count` samples; returns the position of its first one in the epoch."""
        if self._cursor < 0 or self._cursor + count > self.num_samples:
            raise RuntimeError("prepare() takes each batch of an epoch once, in order")
        start, self._cursor = self._cursor, self._cursor + count
        return start


def _read_ahead(images: Images) -> None:
    """Asks the kernel to read a memory map ahead, so that the first epoch does not fault page by page."""
    base = getattr(images, "_mmap", None)
    if isinstance(base, mmap.mmap):
        with suppress(OSError):
            base.madvise(mmap.MADV_WILLNEED)
