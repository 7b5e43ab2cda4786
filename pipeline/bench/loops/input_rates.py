"""Images per second that the input pipelines deliver, without a model. In a child process."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import torch

from pipeline.design.spec import Device, Recipe, RunSpec
from pipeline.training import environment
from pipeline.training.data import inputs
from pipeline.training.data.store import ImageStore

Pipeline = Literal["loader", "gather"]
Augmentation = Literal["none", "crop_flip", "affine_flip"]
IMAGES, SIDE, CLASSES = 50_000, 32, 10  # CIFAR's
BATCH, WORKERS = 128, 2
LOADER_IMAGES = 20 * BATCH  # a whole epoch would take half a minute


def rates(device: Device, rounds: int, augmentation: Augmentation) -> dict[str, list[float]]:
    """Delivers batches ready for the model, `gather` and `loader` in turn.

    Args:
        device: where the batches go.
        rounds: timed passes of each; one more warms up (the loader's workers start, memory is mapped).
        augmentation: the recipe's.

    Returns:
        Pipeline -> images per second of each round.
    """
    names: tuple[Pipeline, ...] = ("gather", "loader")
    pipelines = {name: _pipeline(name, device, augmentation) for name in names}
    sizes = {"gather": [BATCH] * (IMAGES // BATCH), "loader": [BATCH] * (LOADER_IMAGES // BATCH)}
    found: dict[str, list[float]] = {name: [] for name in names}
    try:
        for epoch in range(1, rounds + 2):
            for name in names if epoch % 2 else names[::-1]:
                rate = sum(sizes[name]) / _seconds(pipelines[name].train, epoch, sizes[name], device)
                if epoch > 1:
                    found[name].append(rate)
    finally:
        for made in pipelines.values():
            made.close()
    return found


def _pipeline(name: Pipeline, device: Device, augmentation: Augmentation) -> inputs.Inputs:
    recipe = Recipe(
        batch_size=BATCH,
        image_size=SIDE,
        augmentation=augmentation,
        input_pipeline=name,
        num_workers=WORKERS,
        pin_memory=True,
        non_blocking=True,
        validation_fraction=0.0,
    )
    spec = RunSpec(model="test_resnet", dataset="cifar10", device=device, recipe=recipe)
    environment.prepare_process(spec)
    return inputs.build_inputs(spec, _store(), environment.open_device(spec))


def _store() -> ImageStore:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, IMAGES, dtype=np.int64)
    names = tuple(str(number) for number in range(CLASSES))
    return ImageStore("cifar10", names, pixels, labels, pixels[:CLASSES], np.arange(CLASSES, dtype=np.int64), digest="")


def _seconds(train: inputs.TrainInput, epoch: int, sizes: list[int], device: str) -> float:
    began = time.perf_counter()
    for batch in train.epoch(epoch, sizes):
        images, _labels = train.to_device(batch)
        train.prepare(images)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
