"""Copies to a CUDA device: right under reuse of buffers, pinned and not; skipped where there is none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.data import prefetch
from pipeline.training.data.inputs import build_inputs
from pipeline.training.data.store import prepare_dataset
from tests.support.data import even, spec, whole, write_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "affine_flip"])
@pytest.mark.parametrize("image_size", [16, 64])
@pytest.mark.parametrize("pipeline", ["loader", "gather", "device"])
def test_device_batches_equal_the_cpus(pipeline: str, image_size: int, augmentation: str, tmp_path: Path) -> None:
    source = prepare_dataset("digits", tmp_path, image_size=16)
    run = spec(
        input_pipeline=pipeline,
        image_size=image_size,
        augmentation=augmentation,
        pin_memory=True,
        non_blocking=True,
    )
    images, labels = whole(build_inputs(run, source, CUDA))
    expected, expected_labels = whole(build_inputs(run, source, CPU))
    assert images.device.type == labels.device.type == "cuda"
    assert torch.equal(labels.cpu(), expected_labels)
    torch.testing.assert_close(images.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("non_blocking", [False, True])
@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("pipeline", ["loader", "gather"])
def test_pinning_and_blocking_are_two_things(
    pipeline: str, pin_memory: bool, non_blocking: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepare_dataset("digits", tmp_path, image_size=16)
    run = spec(input_pipeline=pipeline, pin_memory=pin_memory, non_blocking=non_blocking, num_workers=1)
    inputs = build_inputs(run, source, CUDA)
    batch = next(inputs.train.epoch(1, [32]))
    assert batch.images.is_pinned() == batch.labels.is_pinned() == pin_memory
    asked: list[bool] = []
    move = torch.Tensor.to

    def spy(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        asked.append(options["non_blocking"])
        return move(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    inputs.train.to_device(batch)
    assert asked == [non_blocking] * 2
    inputs.close()


def test_ring_waits_for_its_copies(tmp_path: Path) -> None:
    # a stream kept busy: without the event the host would overwrite buffers that are still to be read
    root = write_folder(tmp_path / "set", train=200, test=2, sizes=((96, 96),))
    source = prepare_dataset(f"imagefolder:{root}", tmp_path / "data", image_size=96)
    run = spec(source.name, image_size=96, pin_memory=True, non_blocking=True)
    expected = whole(build_inputs(run, source, CPU), 1, even(400, 32))[0]
    train = build_inputs(run, source, CUDA).train
    busy = torch.rand(4096, 4096, device=CUDA)
    made = []
    for batch in train.epoch(1, even(400, 32)):
        for _ in range(8):
            busy = (busy @ busy).clamp(-1, 1)
        images, _labels = train.to_device(batch)
        made.append(train.prepare(images))
    torch.testing.assert_close(torch.cat(made).cpu(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pinned", [False, True])
def test_copies_do_not_wait_for_training(pinned: bool, tmp_path: Path) -> None:
    """The copy has its own stream: it is over while the training stream is still busy, and the host goes on."""
    source = prepare_dataset("digits", tmp_path, image_size=16)
    inputs = build_inputs(spec(pin_memory=pinned, non_blocking=pinned), source, CUDA)
    train = inputs.train
    batches = train.epoch(1, [64] * 10)
    train.prepare(train.to_device(next(batches))[0])
    torch.cuda.synchronize()
    busy, done = torch.rand(8192, 8192, device=CUDA), torch.cuda.Event()
    for _ in range(20):
        busy = (busy @ busy).clamp(-1, 1)
    done.record()
    batch = next(batches)
    images, labels = train.to_device(batch)
    copied = train._copied[batch.slot]  # type: ignore[attr-defined]
    copied.synchronize()
    assert not done.query(), "the training stream is busy still"
    expected = batch.images.clone(), batch.labels.clone()
    assert torch.equal(images.cpu(), expected[0]) and torch.equal(labels.cpu(), expected[1])
    assert done.query(), "what reads the batch comes after what was queued before"
    inputs.close()


def test_the_thread_ends_with_the_pipeline(tmp_path: Path) -> None:
    source = prepare_dataset("digits", tmp_path, image_size=16)
    inputs = build_inputs(spec(pin_memory=True, non_blocking=True), source, CUDA)
    batches = inputs.train.epoch(1, [64] * 10)
    next(batches)
    assert [thread for thread in threading.enumerate() if thread.name == prefetch.NAME]
    inputs.close()
    assert not [thread for thread in threading.enumerate() if thread.name == prefetch.NAME]
