"""The batch that an input pipeline hands over, before its copy to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class HostBatch:
    """One micro-batch.

    Attributes:
        images: (B, ...) in the pipeline's own form: uint8 (B, H, W, 3) of `gather` and `device`, normalised
            float32 (B, 3, S, S) of `loader`, and of `gather` where the host trains.
        labels: int64 (B,).
        slot: number of the reused buffer that it lies in, -1 for none.
    """

    images: torch.Tensor
    labels: torch.Tensor
    slot: int = -1


def check_sizes(sizes: Sequence[int], num_samples: int) -> None:
    """Refuses micro-batches that are empty or more than an epoch has.

    Raises:
        ValueError: says which.
    """
    if any(size < 1 for size in sizes) or sum(sizes) > num_samples:
        raise ValueError(f"micro-batches of {sum(sizes)} samples in an epoch of {num_samples}")
