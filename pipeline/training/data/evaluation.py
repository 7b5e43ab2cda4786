"""Evaluation batches, served from a store in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.design.spec import Recipe
from pipeline.training.data.ordered import Images
from pipeline.training.data.split import Indices, Labels
from pipeline.training.data.transforms import BatchTransform


class StoreEval:
    """Evaluation over arrays, the same whatever the recipe's pipeline and pinning: one copy per batch.

    Args:
        images: images of the store, uint8 (N, height, width, 3); may be a memory map.
        labels: their labels, int64 (N,).
        rows: rows of the images that are evaluated, int64 (n,).
        recipe: recipe of the run; image size, normalisation, memory format and `eval_batch_size` are read.
        dataset: name of the data set, for the normalisation.
        device: where the model is.
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        rows: Indices,
        recipe: Recipe,
        dataset: str,
        device: torch.device,
    ) -> None:
        self.num_samples = len(rows)
        self.labels: Labels = np.asarray(labels)[rows]
        self._images, self._rows = np.asarray(images), rows
        self._batch = recipe.eval_batch_size
        self._device = device
        self._transform = BatchTransform(recipe, dataset, device, augment=False)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `EvalInput`."""
        labels = torch.from_numpy(self.labels)
        for start in range(0, self.num_samples, self._batch):
            stop = start + self._batch
            images = torch.from_numpy(np.take(self._images, self._rows[start:stop], axis=0))
            yield self._transform(images.to(self._device)), labels[start:stop].to(self._device)

    def close(self) -> None:
        """See `EvalInput.close`."""
