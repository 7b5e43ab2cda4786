"""Evaluation batches: everything, in order, whatever the pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.training.data.store import ImageStore
from tests.support.data import PIPELINES, spec

CPU = torch.device("cpu")


def test_evaluation_is_everything_in_order_unaugmented(pictures: ImageStore, building: Any) -> None:
    run = spec(pictures.name, image_size=32, augmentation="crop_flip", eval_batch_size=3, validation_fraction=0.25)
    inputs = building(run, pictures)
    passes = [[(images.clone(), labels) for images, labels in inputs.test] for _ in range(2)]
    assert [len(labels) for _images, labels in passes[0]] == [3, 3, 2]
    assert torch.cat([labels for _images, labels in passes[0]]).tolist() == pictures.test_labels.tolist()
    assert inputs.test.labels.tolist() == pictures.test_labels.tolist() and inputs.test.num_samples == 8
    for (first, _a), (second, _b) in zip(*passes, strict=True):
        assert torch.equal(first, second)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((torch.from_numpy(pictures.test_images[:3].copy()) / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(passes[0][0][0], expected, atol=1e-5, rtol=0)
    assert inputs.validation is not None and inputs.validation.num_samples == 6
    assert inputs.train.num_samples == 18 and inputs.num_classes == 2 and inputs.class_names == ("cat", "dog")


def test_evaluation_does_not_depend_on_the_pipeline(pictures: ImageStore, building: Any) -> None:
    batches = [
        [images for images, _labels in building(spec(pictures.name, input_pipeline=pipeline), pictures).test]
        for pipeline in PIPELINES
    ]
    assert all(torch.equal(a, b) for other in batches[1:] for a, b in zip(batches[0], other, strict=True))


def test_test_images_are_the_same_for_every_seed(digits: ImageStore, building: Any) -> None:
    labels = [building(spec(seed=seed, max_test_samples=50), digits).test.labels for seed in (1, 2)]
    images = [next(iter(building(spec(seed=seed, max_test_samples=50), digits).test))[0] for seed in (1, 2)]
    assert len(labels[0]) == 50 and np.array_equal(*labels) and torch.equal(*images)
