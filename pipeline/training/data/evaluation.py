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
    """Evaluation over arrays, the same whatever the recipe's pipeline and pinning: one copy per batch."""

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
