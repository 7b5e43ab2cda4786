"""Input pipelines: equal tensors, equal order, exact sizes, buffers that are not overwritten too early."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.design.spec import RunSpec
from pipeline.errors import InputError
from pipeline.training.data import gather, imagefolder, transforms
from pipeline.training.data.inputs import Inputs, build_inputs
from pipeline.training.data.split import epoch_order
from pipeline.training.data.store import FolderSource, ImageStore, prepare_dataset
from tests.support.data import even, spec, whole, write_folder

CPU = torch.device("cpu")
PIPELINES = ("loader", "gather", "device")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> ImageStore:
    store = prepare_dataset("digits", data_dir, image_size=16)
    assert isinstance(store, ImageStore)
    return store


@pytest.fixture(scope="module")
def pictures(data_dir: Path) -> ImageStore:
    """A folder of equal squares, as JPEG and PNG."""
    root = write_folder(data_dir / "pictures", train=12, test=4)
    store = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=32)
    assert isinstance(store, ImageStore)
    return store


@pytest.fixture
def building() -> Iterator[Any]:
    """`build_inputs` on the CPU, closed at the end of the test."""
    made: list[Inputs] = []

    def make(run: RunSpec, source: ImageStore | FolderSource) -> Inputs:
        made.append(build_inputs(run, source, CPU))
        return made[-1]

    yield make
    for inputs in made:
        inputs.close()


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


def test_no_validation_without_a_fraction(digits: ImageStore, building: Any) -> None:
    assert building(spec(), digits).validation is None


def test_test_images_are_the_same_for_every_seed(digits: ImageStore, building: Any) -> None:
    labels = [building(spec(seed=seed, max_test_samples=50), digits).test.labels for seed in (1, 2)]
    images = [next(iter(building(spec(seed=seed, max_test_samples=50), digits).test))[0] for seed in (1, 2)]
    assert len(labels[0]) == 50 and np.array_equal(*labels) and torch.equal(*images)


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


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_impossible_sizes_are_refused(pipeline: str, digits: ImageStore, building: Any) -> None:
    train = building(spec(input_pipeline=pipeline, max_train_samples=20), digits).train
    for sizes in ([21], [10, 0], [-1], [10, 11]):
        with pytest.raises(ValueError, match="micro-batches"):
            train.epoch(1, sizes)


@pytest.mark.parametrize("pipeline", ["gather", "device"])
def test_prepare_out_of_step_is_an_error(pipeline: str, digits: ImageStore, building: Any) -> None:
    train = building(spec(input_pipeline=pipeline, max_train_samples=20), digits).train
    with pytest.raises(RuntimeError, match="in order"):
        train.prepare(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    batch = next(train.epoch(1, [20]))
    train.prepare(batch.images)
    with pytest.raises(RuntimeError, match="in order"):
        train.prepare(batch.images)


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


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "affine_flip"])
def test_workers_do_not_change_the_batches(augmentation: str, pictures: ImageStore, building: Any) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    runs = [
        building(
            spec(pictures.name, input_pipeline="loader", augmentation=augmentation, num_workers=workers),
            pictures,
        )
        for workers in (0, 1, 2)
    ]
    for number in (1, 2):
        reference, *others = [whole(inputs, number, [5, 7, 5, 7]) for inputs in runs]
        for other in others:
            assert torch.equal(reference[0], other[0]) and torch.equal(reference[1], other[1])
    # torch's own loader draws one base seed per epoch from the generator; the transforms must draw nothing
    torch.set_rng_state(before)
    whole(runs[0], 1, [24])
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    iter(torch.utils.data.DataLoader(range(3)))
    assert torch.equal(drawn, torch.get_rng_state())


def test_workers_persist_and_end_with_close(pictures: ImageStore) -> None:
    inputs = build_inputs(spec(pictures.name, input_pipeline="loader", num_workers=2), pictures, CPU)

    def children() -> set[int]:
        return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}

    before = children()
    whole(inputs, 1)
    workers = children() - before
    assert len(workers) == 2
    next(inputs.train.epoch(2, [5, 5]))  # left half-way
    whole(inputs, 3)
    assert children() - before == workers
    inputs.close()
    deadline = time.monotonic() + 10
    while children() & workers and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not children() & workers


_PARENT = """
import sys, torch
from pathlib import Path
from tests.support.data import spec
from pipeline.training.data.inputs import build_inputs
from pipeline.training.data.store import prepare_dataset
if __name__ == "__main__":
    source = prepare("digits", Path(sys.argv[1]), image_size=16)
    inputs = build(spec(input_pipeline="loader", num_workers=2), source, torch.device("cpu"))
    batches = inputs.train.epoch(1, [1] * 1000)
    next(batches)
    print("ready", flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_workers_die_with_their_parent(data_dir: Path) -> None:
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(data_dir)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    _gone, alive = psutil.wait_procs(workers, timeout=2)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


def test_image_that_breaks_later_is_one_line(data_dir: Path, tmp_path: Path, building: Any) -> None:
    root = write_folder(tmp_path / "set")
    source = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=32)
    (root / "train" / "cat" / "001.png").write_bytes(b"broken since")
    for workers in (0, 1):
        inputs = building(spec(source.name, input_pipeline="loader", num_workers=workers), source)
        with pytest.raises(InputError) as caught:
            whole(inputs, 1)
        assert "001.png" in str(caught.value) and "\n" not in str(caught.value)


def test_loader_decodes_files_and_gather_does_not(data_dir: Path, tmp_path: Path, building: Any) -> None:
    root = write_folder(tmp_path / "set", endings=(".png",))
    source = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=32)
    runs = {p: building(spec(source.name, input_pipeline=p, image_size=32), source) for p in ("loader", "gather")}
    before = {name: whole(inputs)[0] for name, inputs in runs.items()}
    for path in root.glob("train/*/*.png"):
        Image.new("RGB", (32, 32)).save(path)
    assert not torch.equal(whole(runs["loader"])[0], before["loader"])
    assert torch.equal(whole(runs["gather"])[0], before["gather"])


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
