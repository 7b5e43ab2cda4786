"""From a run's specification and a prepared data set to batches on the device.

Three input pipelines, one order of samples, one normalisation:

* `loader`: DataLoader workers with torchvision's transforms, one sample at a time, float32 batches;
* `gather`: one vectorised gather of uint8 rows per batch into a reused host buffer, the rest on the device; where
  the host trains, both for several batches in one pass;
* `device`: the training set lies on the device, batches are indexed there.

Evaluation is the same for all three wherever the data set has a store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.design.spec import Recipe, RunSpec
from pipeline.errors import InputError
from pipeline.training.data import split
from pipeline.training.data.batch import HostBatch
from pipeline.training.data.device import DeviceTrain
from pipeline.training.data.evaluation import StoreEval
from pipeline.training.data.gather import GatherTrain, HostTrain
from pipeline.training.data.loader import LoaderEval, LoaderTrain, Samples
from pipeline.training.data.store import FolderSource, ImageStore

# Where a thread prefetches. On a CPU the batch is needed by the same cores that would gather it.
PREFETCH_ON = frozenset(("cuda",))


class TrainInput(Protocol):
    """Training batches. Per batch: take it from `epoch`, `to_device`, `prepare`, in this order, once each.

    Attributes:
        num_samples: training images of an epoch.
    """

    num_samples: int

    @property
    def ahead_batches(self) -> int:
        """Micro-batches that are made ready, outside of the training process's own time, before it asks for them."""

    def epoch(self, epoch: int, sizes: Sequence[int], positions: torch.Tensor | None = None) -> Iterator[HostBatch]:
        """Starts an epoch and yields micro-batches of exactly these sizes, in `split.epoch_order`.

        A batch of `gather` may lie in a reused buffer: it is valid until two more have been asked for.

        Args:
            epoch: number of the epoch; with the seed it decides order and augmentation.
            sizes: samples of each micro-batch; together at most `num_samples`.
            positions: positions of the samples in the epoch's order, int64 (sum of sizes,); None for 0, 1, 2, ..

        Raises:
            ValueError: the sizes are more than there is.
        """

    def to_device(self, batch: HostBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies a batch to the device, and nothing else; obeys `non_blocking`.

        Returns:
            (images for `prepare`, labels int64 (B,)).
        """

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Does all that is left, on the device: augment, resize, normalise, memory format.

        Returns:
            float32 (B, 3, image_size, image_size).
        """

    def close(self) -> None:
        """Stops workers and frees buffers."""


class EvalInput(Protocol):
    """Batches to evaluate on; can be iterated over any number of times.

    Attributes:
        num_samples: number of images.
        labels: labels in the order of the batches, int64 (num_samples,).
    """

    num_samples: int
    labels: npt.NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields (images float32 (B, 3, S, S) ready for the model, labels int64 (B,)), on the device."""

    def close(self) -> None:
        """Stops workers."""


@dataclass(frozen=True)
class Inputs:
    """All that a run reads.

    Attributes:
        num_classes: number of classes of the data set.
        class_names: names by label.
        train: training batches.
        validation: images held out of the training set, None when `validation_fraction` is 0.
        test: test images.
    """

    num_classes: int
    class_names: tuple[str, ...]
    train: TrainInput
    validation: EvalInput | None
    test: EvalInput

    def close(self) -> None:
        """Stops all workers and frees all buffers."""
        self.train.close()
        self.test.close()
        if self.validation is not None:
            self.validation.close()


def build_inputs(spec: RunSpec, source: ImageStore | FolderSource, device: torch.device) -> Inputs:
    """Builds a run's inputs.

    Args:
        spec: the run; its recipe chooses the pipeline.
        source: the prepared data set.
        device: where the model trains.

    Raises:
        InputError: too few images to split, or a pipeline that this data set does not allow.
    """
    recipe = spec.recipe
    part = split.part_of(spec, source.train_labels, source.test_labels, source.held_out)
    return Inputs(
        len(source.class_names),
        source.class_names,
        _train(spec, source, part.train, device),
        _evaluation(recipe, source, "train", part.validation, device) if len(part.validation) else None,
        _evaluation(recipe, source, "test", part.test, device),
    )


def check_classes(source: ImageStore | FolderSource) -> None:
    """Refuses what cannot be learned or scored: macro F1 and recall are means over all classes.

    Args:
        source: the prepared data set.

    Raises:
        InputError: there are fewer than two classes, or one without images in a part.
    """
    names = source.class_names
    if len(names) < 2:
        raise InputError(f"dataset: {source.name!r} has {len(names)} class; allowed: two classes or more")
    trained = source.train_labels[: len(source.train_labels) - source.held_out]
    for part, labels in (("training", trained), ("test", source.test_labels)):
        if len(missing := np.setdiff1d(np.arange(len(names)), labels)):
            raise InputError(
                f"dataset: {source.name!r} has no {part} images of class {names[missing[0]]!r} "
                f"({len(missing)} of {len(names)} classes); allowed: images of every class in each part"
            )


def _train(spec: RunSpec, source: ImageStore | FolderSource, rows: split.Indices, device: torch.device) -> TrainInput:
    recipe = spec.recipe
    if recipe.input_pipeline == "loader":
        samples = Samples.of(source, "train", recipe, augment=True, seed=spec.seed)
        return LoaderTrain(samples, rows, recipe, spec.seed, device)
    if isinstance(source, FolderSource):
        raise InputError(
            f"input_pipeline: {recipe.input_pipeline!r} is not allowed; allowed: loader (the images of "
            f"{source.name!r} are too large to be held in memory)"
        )
    if recipe.input_pipeline == "device":
        kind: type[DeviceTrain | GatherTrain | HostTrain] = DeviceTrain
    else:
        kind = GatherTrain if device.type in PREFETCH_ON else HostTrain
    images, labels, stored = source.stored("train", rows)
    return kind(images, labels, stored, recipe, source.name, spec.seed, device)


def _evaluation(
    recipe: Recipe, source: ImageStore | FolderSource, part: str, rows: split.Indices, device: torch.device
) -> EvalInput:
    if isinstance(source, FolderSource):
        samples = Samples.of(source, part, recipe, augment=False, seed=0)
        return LoaderEval(samples, rows, recipe, device)
    images, labels, stored = source.stored(part, rows)
    return StoreEval(images, labels, stored, recipe, source.name, device)
