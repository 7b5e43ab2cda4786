"""The `loader` pipeline: DataLoader workers that transform one sample at a time, as in the paper's code.

Image folders are decoded from their files in the workers. Each sample's augmentation is seeded by (seed,
epoch, its index), so neither the number of workers nor the batch size changes it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.design.spec import Recipe
from pipeline.errors import InputError, OutsideError
from pipeline.host import SHARED_MEMORY, die_with_parent
from pipeline.training.data.batch import HostBatch, check_sizes
from pipeline.training.data.decode import UnreadableImageError, decode
from pipeline.training.data.split import Indices, Labels, derive, epoch_order
from pipeline.training.data.store import FolderSource, ImageStore
from pipeline.training.data.transforms import memory_format, per_sample

_SAMPLE = 5  # stream of random numbers, see `split`
_Batch = tuple[int, list[int]]
# a batch for which there is no room: a write that fails, or one to a map that is not backed, which kills the worker
PREFETCH = 2  # batches that each worker keeps ready, PyTorch's default
_SHARED_MEMORY = ("</torch_", "Bus error", "shared memory")


class Samples(Dataset[tuple[torch.Tensor, int]]):
    """One split's images, transformed one by one.

    A batch is asked for as (epoch, rows), since persistent workers hold a copy of this object and would not
    learn of a new epoch otherwise.

    Args:
        read: gives the image of a row, uint8 (3, height, width).
        labels: labels of all rows, int64 (N,).
        transform: makes float32 (3, image_size, image_size) of an image.
        seed: seed of the augmentation; None where nothing is drawn.
    """

    def __init__(self, read: Callable[[int], torch.Tensor], labels: Labels, transform: Any, seed: int | None) -> None:
        self.labels = labels
        self._read = read
        self._transform = transform
        self._seed = seed

    @classmethod
    def of(cls, source: ImageStore | FolderSource, part: str, recipe: Recipe, *, augment: bool, seed: int) -> Samples:
        """Builds the samples of one part of a data set.

        Args:
            source: the prepared data set.
            part: `train` or `test`.
            recipe: recipe of the run, for the transforms.
            augment: whether images are augmented (training only).
            seed: seed of the augmentation.
        """
        labels: Labels = np.asarray(source.train_labels if part == "train" else source.test_labels)
        native = source.train_images.shape[1] if isinstance(source, ImageStore) and source.native else 0
        transform = per_sample(recipe, source.name, augment, native)
        random = seed if augment and recipe.augmentation != "none" else None
        if source.listing is not None:
            listed = source.listing.train if part == "train" else source.listing.test
            return cls(_FileReader(source.listing.root, listed.names), labels, transform, random)
        assert isinstance(source, ImageStore)
        return cls(
            _ArrayReader(source.train_images if part == "train" else source.test_images),
            labels,
            transform,
            random,
        )

    def __getitems__(self, batch: _Batch) -> list[tuple[torch.Tensor, int]]:
        """Transforms the rows of one batch."""
        epoch, rows = batch
        if self._seed is None:
            return [(self._transform(self._read(row)), int(self.labels[row])) for row in rows]
        # torchvision's transforms draw from the global generator; without workers that is the run's own
        state = torch.get_rng_state()
        try:
            items = []
            for row in rows:
                # torch.manual_seed would also queue a seeding of every CUDA device, with a stack trace
                torch.default_generator.manual_seed(derive(self._seed, _SAMPLE, epoch, row))
                items.append((self._transform(self._read(row)), int(self.labels[row])))
            return items
        finally:
            torch.set_rng_state(state)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """Transforms one row as in epoch 0."""
        return self.__getitems__((0, [row]))[0]


class _ArrayReader:
    def __init__(self, images: Any) -> None:
        self._images = images

    def __call__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self._images[row])).permute(2, 0, 1)


class _FileReader:
    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root, self._names = root, names

    def __call__(self, row: int) -> torch.Tensor:
        try:
            return decode(self._root / self._names[row])
        except UnreadableImageError as error:  # a worker's errors are made anew from their text alone
            raise InputError(str(error)) from None


class _Schedule(Sampler[_Batch]):
    """The batches of the epoch at hand."""

    def __init__(self) -> None:
        self.batches: list[_Batch] = []

    def __iter__(self) -> Iterator[_Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class LoaderTrain:
    """`loader`: a DataLoader with persistent workers, driven by the planner's batch sizes.

    Args:
        samples: the training part of the data set, with augmentation.
        rows: rows of the samples that are trained on, int64 (num_samples,).
        recipe: recipe of the run; workers, pinning and memory format are read.
        seed: seed of the order.
        device: where the model trains.

    Attributes:
        num_samples, ahead_batches: see `TrainInput`.
    """

    def __init__(self, samples: Samples, rows: Indices, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.num_samples = len(rows)
        self.ahead_batches = PREFETCH * recipe.num_workers
        self._rows = rows
        self._seed = seed
        self._device = device
        self._non_blocking = recipe.non_blocking
        self._format = memory_format(recipe)
        self._schedule = _Schedule()
        self._loader: DataLoader[Any] | None = _loader(samples, self._schedule, recipe, device, train=True)

    def epoch(self, epoch: int, sizes: Sequence[int], positions: torch.Tensor | None = None) -> Iterator[HostBatch]:
        """See `TrainInput.epoch`."""
        check_sizes(sizes, self.num_samples)
        assert self._loader is not None, "closed"
        order = epoch_order(self.num_samples, self._seed, epoch)
        rows = self._rows[(order if positions is None else order[positions]).numpy()]
        ends = np.cumsum(sizes, dtype=np.int64)
        bounds = zip(ends, sizes, strict=True)
        self._schedule.batches = [(epoch, rows[end - size : end].tolist()) for end, size in bounds]
        return (HostBatch(images, labels) for images, labels in _plain_errors(self._loader))

    def to_device(self, batch: HostBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainInput.to_device`; the workers' thread has pinned the batch if it is to be."""
        return (
            batch.images.to(self._device, non_blocking=self._non_blocking),
            batch.labels.to(self._device, non_blocking=self._non_blocking),
        )

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """See `TrainInput.prepare`: only the memory format is left to do."""
        return images.contiguous(memory_format=self._format)

    def close(self) -> None:
        """See `TrainInput.close`."""
        # the workers end with the loader's iterator, which nothing else holds
        self._loader = None


class LoaderEval:
    """Evaluation over the files of a folder that has no store.

    Args:
        samples: the part of the data set, without augmentation.
        rows: rows of the samples that are evaluated, int64 (num_samples,).
        recipe: recipe of the run; workers, memory format and `eval_batch_size` are read.
        device: where the model is.
    """

    def __init__(self, samples: Samples, rows: Indices, recipe: Recipe, device: torch.device) -> None:
        self.num_samples = len(rows)
        self.labels: Labels = samples.labels[rows]
        self._device = device
        self._format = memory_format(recipe)
        schedule = _Schedule()
        step = recipe.eval_batch_size
        schedule.batches = [(0, rows[start : start + step].tolist()) for start in range(0, len(rows), step)]
        self._loader = _loader(samples, schedule, recipe, device, train=False)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `EvalInput`."""
        for images, labels in _plain_errors(self._loader):
            moved = images.to(self._device).contiguous(memory_format=self._format)
            yield moved, labels.to(self._device)

    def close(self) -> None:
        """See `EvalInput.close`: the workers end with each pass."""


def _loader(
    samples: Samples, schedule: _Schedule, recipe: Recipe, device: torch.device, *, train: bool
) -> DataLoader[Any]:
    workers = recipe.num_workers
    return DataLoader(
        samples,
        # typed for lists of rows; the fetcher hands `__getitems__` whatever a batch is
        batch_sampler=cast(Any, schedule),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        # pinning needs a device and warns without one; evaluation is alike in all cells, so never pinned
        pin_memory=train and recipe.pin_memory and device.type == "cuda",
        persistent_workers=train and workers > 0,
        # forked: no import, no pickling of the set, and safe since the workers never touch CUDA
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_Start(os.getpid()) if workers else None,
    )


class _Start:
    """Prepares a worker process; `parent` is the run's process."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, _worker: int) -> None:
        # Ctrl-C reaches the whole group: the run's process decides, and its handlers are not for workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()  # torch's own watchdog takes up to 5 s to see that the parent is gone
        if sys.platform == "linux" and os.getppid() != self._parent:
            os._exit(1)


def _plain_errors(loader: DataLoader[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Iterates over a loader; what failed in a worker comes as its one line, without its traceback."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(_last_line(error).removeprefix("pipeline.errors.InputError: ")) from None
    except (RuntimeError, OSError) as error:
        cause = _last_line(error)
        if loader.num_workers and any(sign in cause for sign in _SHARED_MEMORY):
            room = shutil.disk_usage(SHARED_MEMORY).total / 2**20 if SHARED_MEMORY.is_dir() else 0.0
            raise OutsideError(
                f"{SHARED_MEMORY} ({room:.1f} MiB) is too small for the batches of {loader.num_workers} loader "
                f"workers ({cause[:160]}); give it more (docker run --shm-size=2g), or --set num_workers=0, "
                "or --set input_pipeline=gather"
            ) from None
        if str(error).startswith("Caught "):  # the first line names the worker, the last one what went wrong
            raise RuntimeError(f"loader worker: {cause}") from error
        raise


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
