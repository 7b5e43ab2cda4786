"""Copies to a CUDA device: right under reuse of buffers, pinned and not; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from data_makers import even, spec, whole, write_folder

from pipeline.data.inputs import build
from pipeline.data.store import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "affine_flip"])
@pytest.mark.parametrize("image_size", [16, 64])
@pytest.mark.parametrize("pipeline", ["loader", "gather", "device"])
def test_device_batches_equal_the_cpus(pipeline: str, image_size: int, augmentation: str, tmp_path: Path) -> None:
    source = prepare("digits", tmp_path, image_size=16)
    run = spec(
        input_pipeline=pipeline,
        image_size=image_size,
        augmentation=augmentation,
        pin_memory=True,
        non_blocking=True,
    )
    images, labels = whole(build(run, source, CUDA))
    expected, expected_labels = whole(build(run, source, CPU))
    assert images.device.type == labels.device.type == "cuda"
    assert torch.equal(labels.cpu(), expected_labels)
    torch.testing.assert_close(images.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("non_blocking", [False, True])
@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("pipeline", ["loader", "gather"])
def test_pinning_and_blocking_are_two_things(
    pipeline: str, pin_memory: bool, non_blocking: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepare("digits", tmp_path, image_size=16)
    run = spec(input_pipeline=pipeline, pin_memory=pin_memory, non_blocking=non_blocking, num_workers=1)
    inputs = build(run, source, CUDA)
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
    source = prepare(f"imagefolder:{root}", tmp_path / "data", image_size=96)
    run = spec(source.name, image_size=96, pin_memory=True, non_blocking=True)
    expected = whole(build(run, source, CPU), 1, even(400, 32))[0]
    train = build(run, source, CUDA).train
    busy = torch.rand(4096, 4096, device=CUDA)
    made = []
    for batch in train.epoch(1, even(400, 32)):
        for _ in range(8):
            busy = (busy @ busy).clamp(-1, 1)
        images, _labels = train.to_device(batch)
        made.append(train.prepare(images))
    torch.testing.assert_close(torch.cat(made).cpu(), expected, atol=1e-4, rtol=0)
