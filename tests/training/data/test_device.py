"""The pipeline `device`: the training part lies on the device, and batches are rows of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.training.data.device import DeviceTrain
from pipeline.training.data.split import epoch_order
from pipeline.training.data.store import ImageStore
from tests.support.data import spec


@pytest.fixture
def train(digits: ImageStore) -> DeviceTrain:
    rows = np.array([5, 900, 17, 44, 301, 8, 1200, 2])
    recipe = spec(augmentation="crop_flip").recipe
    device = torch.device("cpu")
    return DeviceTrain(digits.train_images, digits.train_labels, rows, recipe, "digits", 3, device)


def test_batches_are_the_rows_of_the_epochs_order(train: DeviceTrain, digits: ImageStore) -> None:
    batches = list(train.epoch(2, [3, 3, 2]))
    rows = train.rows[epoch_order(8, 3, 2).numpy()]
    assert [len(batch.labels) for batch in batches] == [3, 3, 2]
    assert torch.cat([batch.images for batch in batches]).numpy().tolist() == digits.train_images[rows].tolist()
    assert torch.cat([batch.labels for batch in batches]).tolist() == digits.train_labels[rows].tolist()


def test_positions_choose_among_the_epochs_order(train: DeviceTrain, digits: ImageStore) -> None:
    positions = torch.tensor([6, 0, 3])
    (batch,) = train.epoch(1, [3], positions)
    rows = train.rows[epoch_order(8, 3, 1)[positions].numpy()]
    assert batch.labels.tolist() == digits.train_labels[rows].tolist()


def test_nothing_is_copied_and_images_stay_bytes(train: DeviceTrain) -> None:
    batch = next(iter(train.epoch(1, [4])))
    images, labels = train.to_device(batch)
    assert images is batch.images and labels is batch.labels
    assert images.dtype == torch.uint8
    assert train.prepare(images).shape == (4, 3, 16, 16)


def test_closing_lets_go_of_the_images(train: DeviceTrain) -> None:
    batches = train.epoch(1, [4, 4])
    next(batches)
    train.close()
    with pytest.raises(IndexError):
        next(batches)
