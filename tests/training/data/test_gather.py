"""The pipeline `gather`: batches that are prepared together, and buffers that are used again."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.data import gather, transforms
from pipeline.training.data.split import epoch_order
from pipeline.training.data.store import ImageStore
from tests.support.data import even, spec, whole

CPU = torch.device("cpu")


def test_batches_of_gather_on_a_cpu_are_never_overwritten(digits: ImageStore, building: Any) -> None:
    train = building(spec(), digits).train
    held = [(batch.images, batch.images.clone(), batch.labels) for batch in train.epoch(1, [16] * 20)]
    assert all(torch.equal(images, copy) for images, copy, _labels in held)
    assert torch.cat([labels for _images, _copy, labels in held]).tolist() == whole_labels(digits, 320)


def whole_labels(source: ImageStore, count: int) -> list[int]:
    """The first labels of epoch 1, by the definition of the order."""
    return [int(label) for label in source.train_labels[epoch_order(1347, 3, 1).numpy()[:count]]]


def test_gather_on_a_cpu_prepares_several_batches_in_one_pass(
    digits: ImageStore, building: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as many as the limit holds: 10 of 16 images of 16 px
    monkeypatch.setattr(gather, "TOGETHER_BYTES", 10 * 16 * 3 * 16 * 16 * 4)
    passes: list[int] = []
    transform = transforms.BatchTransform.__call__

    def counted(self: Any, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        passes.append(len(images))
        return transform(self, images, *rest)

    monkeypatch.setattr(transforms.BatchTransform, "__call__", counted)
    train = building(spec(), digits).train
    batches = train.epoch(1, [16] * 25)
    assert not passes, "nothing before it is asked for"
    for number, batch in enumerate(batches, start=1):
        images, _labels = train.to_device(batch)
        assert train.prepare(images).data_ptr() == batch.images.data_ptr(), "no second pass, no copy"
        assert len(passes) == (number + 9) // 10
    assert passes == [160, 160, 80]


@given(sizes=st.lists(st.integers(1, 50)), most=st.integers(0, 60))
def test_batches_are_grouped_in_order_and_as_full_as_allowed(sizes: list[int], most: int) -> None:
    groups = list(gather.grouped(sizes, most))
    assert [size for group in groups for size in group] == sizes
    assert all(group and (sum(group) <= most or len(group) == 1) for group in groups)
    assert all(sum(group) + following[0] > most for group, following in itertools.pairwise(groups))


def test_labels_and_prepared_images_outlive_the_ring(digits: ImageStore, building: Any) -> None:
    train = building(spec(image_size=8), digits).train
    kept = []
    for batch in train.epoch(1, [16] * 20):
        images, labels = train.to_device(batch)
        prepared = train.prepare(images)
        kept.append((prepared, prepared.clone(), labels, labels.clone()))
    assert all(torch.equal(a, b) and torch.equal(c, d) for a, b, c, d in kept)


def test_bigger_batches_in_a_later_epoch(digits: ImageStore, building: Any) -> None:
    inputs = building(spec(), digits)
    small = whole(inputs, 1, even(1347, 50))
    large = whole(inputs, 1, even(1347, 500))
    assert torch.equal(small[0], large[0])
