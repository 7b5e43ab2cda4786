"""Prefetching in a thread: the same batches, errors that arrive, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.data import gather, inputs, prefetch
from pipeline.training.data.inputs import TrainInput, build_inputs
from pipeline.training.data.prefetch import Prefetcher
from pipeline.training.data.store import ImageStore
from tests.support.data import even, spec, whole

CPU = torch.device("cpu")


def store(count: int = 200) -> ImageStore:
    images = np.random.RandomState(1).randint(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(count, dtype=np.int64) % 10
    return ImageStore("digits", tuple("0123456789"), images, labels, images[:2], labels[:2], "")


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prefetches on the CPU too; afterwards no thread may be left."""
    monkeypatch.setattr(inputs, "PREFETCH_ON", frozenset(("cpu",)))
    yield
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == prefetch.NAME]


def training(**recipe: Any) -> TrainInput:
    return build_inputs(spec(image_size=8, **recipe), store(), CPU).train


def settle(filled: list[int]) -> list[int]:
    """What a thread has filled when it does not go on any more."""
    seen = -1
    while seen != len(filled):
        seen = len(filled)
        time.sleep(0.05)
    return filled


def test_the_cpu_gathers_in_line() -> None:
    # measured: a thread makes a step on 2 cores 1 to 4 % slower, and a batch that is waited for 40 us dearer
    batches = training().epoch(1, [20] * 10)
    next(batches)
    assert not threads() and {"cuda"} == inputs.PREFETCH_ON


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) <= 200))
def test_batches_are_those_without_a_thread(sizes: list[int]) -> None:
    run = spec(image_size=8, augmentation="crop_flip")
    expected = whole(build_inputs(run, store(), CPU), 2, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "PREFETCH_ON", frozenset(("cpu",)))
        images, labels = whole(build_inputs(run, store(), CPU), 2, sizes)
    assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
    assert not threads()


@pytest.mark.usefixtures("threaded")
def test_buffers_are_not_overwritten_too_early() -> None:
    train = training()
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, batch in enumerate(train.epoch(1, even(200, 7))):
        held.append((batch.images, batch.images.clone()))
        time.sleep(0.002)  # lets the thread run as far ahead as it may
        for images, copy in held[max(0, number - prefetch.HELD) :]:
            assert torch.equal(images, copy)
    assert len({images.data_ptr() for images, _copy in held}) == gather.RING


def test_it_prefetches_into_the_free_buffers_and_no_further() -> None:
    filled: list[int] = []
    with Prefetcher(filled.append, 100, 4) as made:
        assert settle(filled) == list(range(4))
        made.wait()
        made.wait()  # holds the first still
        assert settle(filled) == list(range(4))
        made.wait()
        assert settle(filled) == list(range(5))


@pytest.mark.usefixtures("threaded")
def test_an_epoch_left_half_way_leaves_no_thread() -> None:
    train = training()
    kept = train.epoch(1, [10] * 20)
    next(kept)
    assert len(threads()) == 1
    again = train.epoch(2, [10] * 20)  # the first one is still referred to
    assert not threads(), "a new epoch ends the old one"
    first = next(again)
    assert torch.equal(first.images, next(iter(training().epoch(2, [10] * 20))).images)
    assert len(threads()) == 1
    with pytest.raises(StopIteration):
        next(kept)
    del again, kept
    train.close()
    assert not threads()


@pytest.mark.usefixtures("threaded")
def test_a_dropped_epoch_ends_its_thread_with_the_pipeline() -> None:
    def fails_in_the_middle(train: TrainInput) -> None:
        for _batch in train.epoch(1, [10] * 20):
            raise KeyboardInterrupt

    train = training()
    with pytest.raises(KeyboardInterrupt):
        fails_in_the_middle(train)
    train.close()
    assert not threads()
    never = training()
    never.epoch(1, [10] * 20)  # not even begun
    never.close()


@pytest.mark.usefixtures("threaded")
def test_an_error_in_the_thread_reaches_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    take, calls = np.take, []

    def breaks(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise OSError("the disk is gone")
        return take(*arguments, **options)

    monkeypatch.setattr(np, "take", breaks)
    train, seen = training(), 0
    with pytest.raises(OSError, match="the disk is gone"):
        for _batch in train.epoch(1, [10] * 20):
            seen += 1
    assert seen == 4, "what came before the error is delivered"
    assert not threads()


@pytest.mark.usefixtures("threaded")
def test_a_run_fails_with_the_threads_error(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.design.records import End, Job
    from pipeline.training import worker

    run = spec(max_train_samples=60, batch_size=20)
    take = np.take

    def breaks(array: Any, rows: Any, *arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name == prefetch.NAME:
            raise MemoryError("out of memory in the thread")
        return take(array, rows, *arguments, **options)

    monkeypatch.setattr(np, "take", breaks)
    records: list[Any] = []
    worker.run_job(Job(spec=run, data_dir=str(digits_dir), work_dir=str(tmp_path)), records.append)
    assert isinstance(records[-1], End) and records[-1].outcome == "oom"
    assert "in the thread" in str(records[-1].error)
