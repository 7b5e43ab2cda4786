"""The epoch's order: batches are prepared once each, as they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.training.data.store import ImageStore
from tests.support.data import spec

CPU = torch.device("cpu")


@pytest.mark.parametrize("pipeline", ["gather", "device"])
def test_prepare_out_of_step_is_an_error(pipeline: str, digits: ImageStore, building: Any) -> None:
    train = building(spec(input_pipeline=pipeline, max_train_samples=20), digits).train
    with pytest.raises(RuntimeError, match="in order"):
        train.prepare(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    batch = next(train.epoch(1, [20]))
    train.prepare(batch.images)
    with pytest.raises(RuntimeError, match="in order"):
        train.prepare(batch.images)
