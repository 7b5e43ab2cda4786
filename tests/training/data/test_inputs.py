"""Input pipelines: equal tensors, equal order, exact sizes, buffers that are not overwritten too early."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.training.data import imagefolder
from pipeline.training.data.inputs import build_inputs, check_classes
from pipeline.training.data.split import epoch_order
from pipeline.training.data.store import FolderSource, ImageStore, prepare_dataset
from tests.support.data import PIPELINES, open_store, spec, whole, write_folder

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("image_size", "interpolation"), [(8, "bilinear"), (32, "bilinear"), (224, "bicubic"), (20, "bicubic")]
)
@pytest.mark.parametrize("name", ["digits", "pictures"])
def test_pipelines_give_equal_tensors(
    name: str,
    image_size: int,
    interpolation: str,
    channels_last: bool,
    request: pytest.FixtureRequest,
    building: Any,
) -> None:
    source = request.getfixturevalue(name)
    made = {}
    for pipeline in PIPELINES:
        run = spec(
            source.name,
            input_pipeline=pipeline,
            image_size=image_size,
            interpolation=interpolation,
            channels_last=channels_last,
            max_train_samples=24,
        )
        inputs = building(run, source)
        made[pipeline] = whole(inputs, 1, [10, 10, 4])
        images = next(iter(inputs.test))[0]
        for batch in (made[pipeline][0], images):
            assert batch.dtype == torch.float32 and batch.shape[1:] == (3, image_size, image_size)
        prepared = inputs.train.prepare(inputs.train.to_device(next(inputs.train.epoch(2, [5])))[0])
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert prepared.is_contiguous(memory_format=memory_format)
        assert images.is_contiguous(memory_format=memory_format)
    for pipeline in ("gather", "device"):
        assert torch.equal(made[pipeline][1], made["loader"][1])
        torch.testing.assert_close(made[pipeline][0], made["loader"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalization", ["dataset", "imagenet"])
def test_normalised_pixels_are_the_formula(normalization: str, digits: ImageStore, building: Any) -> None:
    inputs = building(spec(image_size=8, normalization=normalization), digits)
    images, labels = whole(inputs)
    order = epoch_order(1347, 3, 1).numpy()
    mean, std = (0.30547, 0.37574) if normalization == "dataset" else (0.485, 0.229)
    expected = (digits.train_images[order][..., 0] / 255 - mean) / std
    np.testing.assert_allclose(images[:, 0].numpy(), expected, atol=1e-3)
    assert labels.tolist() == digits.train_labels[order].tolist() and labels.dtype == torch.int64
    if normalization == "dataset":
        assert abs(images.mean().item()) < 1e-2 and abs(images.std().item() - 1) < 1e-2


def test_no_validation_without_a_fraction(digits: ImageStore, building: Any) -> None:
    assert building(spec(), digits).validation is None


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_sizes_give_the_same_samples(digits: ImageStore, data: st.DataObject) -> None:
    pipeline = data.draw(st.sampled_from(PIPELINES))
    augmentation = data.draw(st.sampled_from(["none", "crop_flip", "affine_flip"]))
    inputs = build_inputs(spec(input_pipeline=pipeline, augmentation=augmentation, max_train_samples=40), digits, CPU)
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) <= 40))
    reference, reference_labels = whole(inputs, 1, [40])
    assert [len(batch.labels) for batch in inputs.train.epoch(1, sizes)] == sizes
    images, labels = whole(inputs, 1, sizes)
    assert torch.equal(labels, reference_labels[: sum(sizes)])
    torch.testing.assert_close(images, reference[: sum(sizes)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_order_follows_seed_and_epoch(pipeline: str, digits: ImageStore, building: Any) -> None:
    inputs = building(spec(input_pipeline=pipeline, augmentation="crop_flip"), digits)
    other = building(spec(seed=4, input_pipeline=pipeline, augmentation="crop_flip"), digits)
    first, again = whole(inputs, 1), whole(inputs, 1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    for changed in (whole(inputs, 2), whole(other, 1)):
        assert (first[1] != changed[1]).float().mean() > 0.8


@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("non_blocking", [False, True])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pinning_on_a_cpu_changes_nothing_and_warns_not(
    pipeline: str, pin_memory: bool, non_blocking: bool, digits: ImageStore, building: Any
) -> None:
    plain = whole(building(spec(input_pipeline=pipeline, max_train_samples=64), digits), 1, [64])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = spec(
            input_pipeline=pipeline,
            max_train_samples=64,
            pin_memory=pin_memory,
            non_blocking=non_blocking,
            num_workers=1 if pipeline == "loader" and pin_memory else 0,
        )
        assert torch.equal(whole(building(run, digits), 1, [64])[0], plain[0])


def test_mixed_sizes_give_equal_tensors_with_bicubic(data_dir: Path, tmp_path: Path, building: Any) -> None:
    root = write_folder(tmp_path / "set", sizes=((40, 30), (24, 48), (32, 32)))
    source = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=20)
    made = [
        whole(building(spec(source.name, input_pipeline=p, image_size=20, interpolation="bicubic"), source))[0]
        for p in ("loader", "gather")
    ]
    torch.testing.assert_close(*made, atol=1e-5, rtol=0)


def test_large_folder_trains_and_evaluates_from_files(
    data_dir: Path, tmp_path: Path, building: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "set")
    name = f"imagefolder:{root}"
    stored = prepare_dataset(name, data_dir, image_size=32)
    monkeypatch.setattr(imagefolder, "MAX_STORE_BYTES", 1)
    source = prepare_dataset(name, tmp_path / "other", image_size=32)
    assert isinstance(source, FolderSource)
    run = spec(
        name,
        input_pipeline="loader",
        image_size=32,
        validation_fraction=0.3,
        eval_batch_size=4,
        num_workers=1,
    )
    files, arrays = building(run, source), building(run, stored)
    torch.testing.assert_close(whole(files)[0], whole(arrays)[0], atol=1e-5, rtol=0)
    for a, b in ((files.test, arrays.test), (files.validation, arrays.validation)):
        assert a.labels.tolist() == b.labels.tolist() and a.num_samples == b.num_samples
        for _pass in range(2):
            for (images, labels), (other, others) in zip(a, b, strict=True):
                torch.testing.assert_close(images, other, atol=1e-5, rtol=0)
                assert torch.equal(labels, others)
    for pipeline in ("gather", "device"):
        with pytest.raises(InputError, match=f"input_pipeline: '{pipeline}'.*allowed: loader"):
            building(spec(name, input_pipeline=pipeline), source)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("train/dog", "test/dog"), "has 1 class; allowed: two classes or more"),
        (("test/dog",), r"has no test images of class 'dog' .1 of 2 classes.; allowed: images of every class"),
    ],
)
def test_what_cannot_be_learned_or_scored_is_refused(missing: tuple[str, ...], said: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    for folder in missing:
        shutil.rmtree(root / folder)
    name = f"imagefolder:{root}"
    with pytest.raises(InputError, match=f"^dataset: '{name}' {said}"):
        check_classes(open_store(name, tmp_path / "data"))
