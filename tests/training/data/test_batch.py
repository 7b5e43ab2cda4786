"""Sizes of micro-batches that no epoch has are refused by every pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.training.data.store import ImageStore
from tests.support.data import PIPELINES, spec

CPU = torch.device("cpu")


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_impossible_sizes_are_refused(pipeline: str, digits: ImageStore, building: Any) -> None:
    train = building(spec(input_pipeline=pipeline, max_train_samples=20), digits).train
    for sizes in ([21], [10, 0], [-1], [10, 11]):
        with pytest.raises(ValueError, match="micro-batches"):
            train.epoch(1, sizes)
