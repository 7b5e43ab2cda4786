"""The input pipeline `gather`: rows of an array in memory, gathered into batches.

`HostTrain` is for a CPU that trains, `GatherTrain` for a device of its own memory: there batches travel as uint8, a
quarter of float32, and augmentation, resize and normalisation run on the device. See docs/input.md for what the copy's
fields change.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

from pipeline.training.data.batch import HostBatch
from pipeline.training.data.ordered import Images, OrderedInput
from pipeline.training.data.prefetch import Prefetcher
from pipeline.training.data.split import Indices
from pipeline.training.data.transforms import Draws

# buffers in flight: one that the consumer holds, one that it takes, two that are prefetched
RING = 4
# floats of the batches that are prepared in one pass on a CPU: they stay in the cache until training has read them
TOGETHER_BYTES = 4 << 20


class HostTrain(OrderedInput):
    """`gather` where the host trains: no copy, so no ring and no thread (it would take its time from training).

    Between two steps of a model the caches hold nothing of the input pipeline, which makes its many small calls
    several times dearer than in a loop of their own. So some batches are gathered, augmented and normalised in one
    pass, and each is a slice of it.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._together = TOGETHER_BYTES // (4 * 3 * self.recipe.image_size**2)

    def epoch(self, epoch: int, sizes: Sequence[int], positions: torch.Tensor | None = None) -> Iterator[HostBatch]:
        """See `TrainInput.epoch`; the batches are ready for the model already."""
        order = self._begin(epoch, sizes, positions).numpy()
        return self._batches(order, sizes, self._draws)

    def _batches(self, order: Indices, sizes: Sequence[int], draws: Draws | None) -> Iterator[HostBatch]:
        rows, labels = self.rows[order], torch.from_numpy(self._labels[order])
        start = 0
        for group in grouped(sizes, self._together):
            stop = start + sum(group)
            images = torch.from_numpy(np.take(self._images, rows[start:stop], axis=0))
            prepared = self._transform(images, draws, start)
            yield from map(HostBatch, torch.split(prepared, group), torch.split(labels[start:stop], group))
            start = stop

    def to_device(self, batch: HostBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainInput.to_device`: nothing to do."""
        return batch.images, batch.labels

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """See `TrainInput.prepare`: nothing to do, but out of order it is an error here too."""
        self._advance(len(images))
        return images

    def close(self) -> None:
        """See `TrainInput.close`: nothing is held."""


def grouped(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Splits batch sizes, in order, into groups of at most `most` samples; a larger batch is a group of its own."""
    group: list[int] = []
    total = 0
    for size in sizes:
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(size)
        total += size
    if group:
        yield group


class GatherTrain(OrderedInput):
    """`gather` for a device of its own memory: rows of a memory-mapped array, gathered into a ring of host buffers.

    A thread prefetches, and copies run on a stream of their own, so that they overlap with training; the training
    stream waits for the copy's event, never the host for the training stream. A buffer is refilled only when its
    copy has ended. (On a CPU, which only tests ask for, the batch is the buffer: nothing is copied.)
    """

    ahead_batches = RING

    def __post_init__(self) -> None:
        super().__post_init__()
        # page-locked memory needs a device to copy to: Tensor.pin_memory raises elsewhere
        self._pin = self.recipe.pin_memory and self.device.type == "cuda"
        self._ring: list[torch.Tensor] = []
        self._views: list[Images] = []
        self._copied: list[torch.cuda.Event | None] = []
        self._stream: torch.cuda.Stream | None = None
        # weak: an epoch that nobody refers to any more ends its thread at once
        self._running: Callable[[], Generator[HostBatch] | None] = _nothing

    def epoch(self, epoch: int, sizes: Sequence[int], positions: torch.Tensor | None = None) -> Iterator[HostBatch]:
        """See `TrainInput.epoch`. Ends an earlier epoch that was left half-way."""
        self._end_epoch()
        order = self._begin(epoch, sizes, positions).numpy()
        self._reserve(max(sizes, default=0))
        batches = self._batches(order, sizes)
        self._running = weakref.ref(batches)
        return batches

    def _batches(self, order: Indices, sizes: Sequence[int]) -> Generator[HostBatch]:
        rows, labels = self.rows[order], torch.from_numpy(self._labels[order])
        if self._pin:
            labels = labels.pin_memory()
        stops = np.cumsum(sizes, dtype=np.int64).tolist()

        def fill(number: int) -> None:
            slot, size, stop = number % RING, sizes[number], stops[number]
            copied = self._copied[slot]
            if copied is not None:
                copied.synchronize()
            # mode="clip" skips the bounce buffer that "raise" needs with `out`; the rows are in range
            np.take(self._images, rows[stop - size : stop], axis=0, out=self._views[slot][:size], mode="clip")

        def batch(number: int) -> HostBatch:
            slot, size, stop = number % RING, sizes[number], stops[number]
            return HostBatch(self._ring[slot][:size], labels[stop - size : stop], slot)

        with Prefetcher(fill, len(sizes), RING) as prefetcher:
            for number in range(len(sizes)):
                prefetcher.wait()
                yield batch(number)

    def to_device(self, batch: HostBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainInput.to_device`."""
        if self.device.type != "cuda":
            return batch.images, batch.labels
        training = torch.cuda.current_stream(self.device)
        if self._stream is None:
            self._stream = cast(Any, torch.cuda.Stream)(self.device)
        with torch.cuda.stream(self._stream):
            images = batch.images.to(self.device, non_blocking=self.recipe.non_blocking)
            labels = batch.labels.to(self.device, non_blocking=self.recipe.non_blocking)
        copied = self._copied[batch.slot] = self._stream.record_event(self._copied[batch.slot])
        training.wait_event(copied)
        # the memory is the copying stream's: it may be given to a later copy only when training has used it
        images.record_stream(training)
        labels.record_stream(training)
        return images, labels

    def close(self) -> None:
        """See `TrainInput.close`."""
        self._end_epoch()
        for event in self._copied:
            if event is not None:
                event.synchronize()
        self._ring, self._views, self._copied = [], [], []

    def _end_epoch(self) -> None:
        running = self._running()
        self._running = _nothing
        if running is not None:
            running.close()

    def _reserve(self, size: int) -> None:
        if self._ring and len(self._ring[0]) >= size:
            return
        self.close()
        shape = (size, *self._images.shape[1:])
        self._ring = [torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin) for _ in range(RING)]
        self._views = [buffer.numpy() for buffer in self._ring]
        self._copied = [None] * RING


def _nothing() -> None:
    """What a weak reference returns when its object is gone."""
