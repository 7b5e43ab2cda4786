"""Prepared stores: the embedded sets, image folders, and what survives crashes and company."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.design.catalog import IMAGENET
from pipeline.design.imagefolder import scan_folder
from pipeline.design.names import LEFT_OUT_TAG, PARTS_TAG
from pipeline.design.plan import build_plan
from pipeline.design.records import End, Job, Tags
from pipeline.design.study import Study
from pipeline.errors import InputError, OutsideError
from pipeline.training import worker
from pipeline.training.data import array_files, decode, digits, imagefolder
from pipeline.training.data.inputs import build_inputs
from pipeline.training.data.store import ImageStore, prepare_dataset, prepare_run, verify_dataset
from tests.support.data import open_store, spec, whole, write_folder


def test_unknown_data_set(tmp_path: Path) -> None:
    for function in (lambda: open_store("digitz", tmp_path), lambda: verify_dataset("digitz", tmp_path)):
        with pytest.raises(InputError, match="digits"):
            function()


def test_second_preparation_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store("digits", tmp_path)
    monkeypatch.setattr(digits, "build_digits", lambda *_: pytest.fail("built again"))
    again = open_store("digits", tmp_path)
    assert again.digest == first.digest and isinstance(again.train_images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.train_images[0] = 0


def _place(data_dir: Path) -> Path:
    return data_dir / "stores" / "digits-v1"


def _truncate(place: Path) -> None:
    with (place / "train_images.npy").open("rb+") as file:
        file.truncate(1000)


def _lengthen(place: Path) -> None:
    with (place / "train_images.npy").open("ab") as file:
        file.write(b"x")


def _other_shape(place: Path) -> None:
    # same number of bytes, so that only the shape tells
    path = place / "train_images.npy"
    path.write_bytes(path.read_bytes().replace(b"(1347, 8, 8, 3)", b"(1347, 4, 16,3)"))


def _as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _meta(**other: Any) -> Any:
    """A change of meta.json that is still JSON."""

    def damage(place: Path) -> None:
        file = place / "meta.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **other}))

    return damage


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _lengthen,
        _other_shape,
        lambda place: (place / "test_labels.npy").unlink(),
        lambda place: (place / "meta.json").unlink(),
        lambda place: (place / "meta.json").write_text('{"files": '),
        lambda place: (place / "meta.json").write_text("[]"),
        lambda place: (place / "meta.json").write_text("[" * 100_000),
        lambda place: (place / "meta.json").write_bytes(b"\xff\xfe"),
        lambda place: _as_fifo(place / "meta.json"),
        lambda place: _as_fifo(place / "train_images.npy"),
        _meta(class_names=5),
        _meta(class_names=[1, 2]),
        _meta(native="x"),
        _meta(digest="0" * 32),
        _meta(digest=None),
        _meta(files=[]),
        _meta(files=None),
        _meta(files={name: {} for name in array_files.NAMES}),
        _meta(files=dict.fromkeys(array_files.NAMES, 1)),
        _meta(files={"train_images": {"sha256": "0"}}),
        _meta(files={name: {"sha256": 1} for name in array_files.NAMES}),
        _meta(more=1),
    ],
)
def test_damaged_store_is_reported_and_rebuilt(damage: Any, check: bool, tmp_path: Path) -> None:
    digest = open_store("digits", tmp_path).digest
    damage(_place(tmp_path))
    assert verify_dataset("digits", tmp_path)
    store = open_store("digits", tmp_path, check=check)
    assert store.digest == digest and store.train_images.shape == (1347, 8, 8, 3)
    assert verify_dataset("digits", tmp_path) == []


@pytest.mark.parametrize("kind", ["fixed", "folder"])
def test_a_changed_content_is_rebuilt_when_checked(kind: str, tmp_path: Path) -> None:
    name = "digits" if kind == "fixed" else f"imagefolder:{write_folder(tmp_path / 'set')}"
    data = tmp_path / "data"
    first = prepare_dataset(name, data, image_size=32)
    assert isinstance(first, ImageStore)
    [file] = (data / "stores").glob("*/train_images.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    seen: list[str] = []
    again = prepare_dataset(name, data, image_size=32)
    assert isinstance(again, ImageStore) and again.train_images[-1, -1, -1, -1] == content[-1], "opening does not check"
    checked = prepare_dataset(name, data, image_size=32, check=True, report=lambda text, *_: seen.append(text))
    assert isinstance(checked, ImageStore) and any("checksum" in text for text in seen)
    assert checked.digest == first.digest and verify_dataset(name, data) == []
    assert checked.train_images[-1, -1, -1, -1] == content[-1] ^ 1
    assert not [path for path in (data / "stores").iterdir() if path.name.startswith(".")]
    seen.clear()
    prepare_dataset(name, data, image_size=32, check=True, report=lambda text, *_: seen.append(text))
    assert set(seen) <= {"reading images"}, "nothing to do"


def test_unwritable_place_is_outside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutsideError, match="data directory"):
        open_store("digits", tmp_path / "file")


def test_changed_folder_gets_a_new_store(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", endings=(".png",))
    name = f"imagefolder:{root}"
    first = open_store(name, tmp_path / "data")
    Image.new("RGB", (32, 32), (255, 0, 0)).save(root / "train" / "cat" / "000.png")
    assert "not prepared, or changed since" in verify_dataset(name, tmp_path / "data")[0]
    assert open_store(name, tmp_path / "data").digest != first.digest


def test_a_folder_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    name = f"imagefolder:{root}"
    recipe = {"batch_size": 4, "max_train_samples": 8, "image_size": 32}
    planned = spec(name, **recipe).model_copy(update={"data_digest": scan_folder(root, "dataset").digest})

    def end() -> End:
        records: list[Any] = []
        worker.run_job(Job(spec=planned, data_dir=str(tmp_path / "data"), work_dir=str(tmp_path)), records.append)
        assert isinstance(records[-1], End)
        return records[-1]

    assert end().outcome == "finished"
    image = root / "train" / "cat" / "001.png"
    Image.new("RGB", (32, 32)).save(image)
    changed = end()
    assert changed.outcome == "failed" and "does not change between plan and run" in str(changed.error)


def _seen(source: Any, run: Any) -> tuple[list[Any], list[Any]]:
    """Labels and pixels of an epoch and of the two other parts, as a run gets them."""
    made = build_inputs(run, source, torch.device("cpu"))
    try:
        images, labels = whole(made)
        parts = [part for part in (made.validation, made.test) if part is not None]
        return [labels, *(part.labels for part in parts)], [
            images,
            *(torch.cat([x for x, _ in part]) for part in parts),
        ]
    finally:
        made.close()


@pytest.mark.parametrize("pipeline", ["gather", "loader"])
@pytest.mark.parametrize("sizes", [((32, 32),), ((32, 32),) * 25 + ((40, 30),)], ids=["native", "mixed"])
def test_a_maximum_decodes_only_what_is_used_and_gives_the_same_images(
    sizes: Any, pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "set", train=12, test=6, sizes=sizes)
    name = f"imagefolder:{root}"
    most = {"max_train_samples": 6, "max_test_samples": 4, "validation_fraction": 0.25}
    runs = [spec(name, seed=seed, input_pipeline=pipeline, **most) for seed in (1, 2)]
    everything = prepare_dataset(name, tmp_path / "all", image_size=16)
    decoded: list[Path] = []
    original = imagefolder.decode
    monkeypatch.setattr(imagefolder, "decode", lambda path: (decoded.append(path), original(path))[1])
    looked: list[int] = []
    all_of_size = imagefolder.all_of_size
    monkeypatch.setattr(imagefolder, "all_of_size", lambda *given: (looked.append(1), all_of_size(*given))[1])
    for run in runs:
        decoded.clear()
        source = prepare_run(run, tmp_path / "some")
        assert isinstance(source, ImageStore) and len(decoded) == len(set(decoded)) == 6 + 2 + 4
        assert len(source.train_labels) == 24 and source.train_images.shape[0] == 8
        for some, all_ in zip(_seen(source, run), _seen(everything, run), strict=True):
            assert all(np.array_equal(one, other) for one, other in zip(some, all_, strict=True))
        prepare_run(run, tmp_path / "some", check=True)
        assert len(decoded) == 12, "the second time nothing is decoded"
    assert looked == [1], "what the folder's images are is known from the first run's store"
    # no more than the folder has: the next one would make it cheaper to have all
    other = spec(name, seed=3, input_pipeline=pipeline, **{**most, "max_train_samples": 18})
    source = prepare_run(other, tmp_path / "some")
    assert isinstance(source, ImageStore) and source.rows is None and source.train_images.shape[0] == 24
    decoded.clear()
    assert prepare_run(runs[0], tmp_path / "some").digest == everything.digest and decoded == []


def test_a_maximum_above_what_there_is_is_none(tmp_path: Path) -> None:
    name = f"imagefolder:{write_folder(tmp_path / 'set')}"
    source = prepare_run(spec(name, max_train_samples=100, max_test_samples=6), tmp_path / "data")
    assert isinstance(source, ImageStore) and source.rows is None


def test_a_validation_folder_is_what_is_held_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", train=5, test=3)
    write_folder(tmp_path / "other", train=4, test=1)
    (tmp_path / "other" / "train").rename(root / "Valid")
    name = f"imagefolder:{root}"
    run = spec(name, validation_fraction=0.1, image_size=32, input_pipeline="loader")
    source = prepare_run(run, tmp_path / "data")
    (train, held_out, test), (_, pixels, _) = _seen(source, run)
    assert (len(train), held_out.tolist(), len(test)) == (10, [0] * 4 + [1] * 4, 6)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    first = decode.decode(min((root / "Valid" / "cat").iterdir())) / 255
    torch.testing.assert_close(pixels[0], (first - mean) / std)
    few = spec(name, validation_fraction=0.1, image_size=32, max_train_samples=5)
    (train, held_out, _), _ = _seen(prepare_run(few, tmp_path / "data"), few)
    assert (len(train), len(held_out)) == (5, 4), "it shrinks as a part of train would"
    none = spec(name, validation_fraction=0.0, image_size=32)
    assert len(_seen(prepare_run(none, tmp_path / "data"), none)[0]) == 2, "not wanted"


def test_squashed_images_have_a_store_of_their_own(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", sizes=((64, 32),), endings=(".png",))
    name, data = f"imagefolder:{root}", tmp_path / "data"
    for resize in ("crop", "squash", "crop"):
        run = spec(name, resize=resize, image_size=16)
        source = prepare_run(run, data)
        assert isinstance(source, ImageStore)
        with Image.open(root / "train" / "cat" / "000.png") as image:
            box = (0, 0, 64, 32) if resize == "squash" else (16, 0, 48, 32)
            expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC, box=box)).astype(int)
        difference = np.abs(source.train_images[0].astype(int) - expected)[2:-2, 2:-2]
        assert difference.max() <= 3
        loader = run.model_copy(update={"recipe": run.recipe.model_copy(update={"input_pipeline": "loader"})})
        for one, other in zip(_seen(source, run)[1], _seen(source, loader)[1], strict=True):
            assert (one - other).abs().mean() < 0.05, "bicubic beside bilinear"
    assert len(list((data / "stores").glob("imagefolder-*-v1"))) == 2


def test_a_run_tells_of_its_data_in_tags(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "test").rename(root / "val")
    (root / "train" / "cat" / "zz.jpg").write_bytes(b"")
    name = f"imagefolder:{root}"
    study = Study.model_validate({
        "name": "x", "models": ["test_resnet"], "datasets": [name],
        "recipe": {"batch_size": 4, "image_size": 32, "num_workers": 0, "skip_unreadable": 2},
    })  # fmt: skip
    planned = build_plan(study, "cpu").cells[0].spec
    records: list[Any] = []
    worker.run_job(Job(spec=planned, data_dir=str(tmp_path / "data"), work_dir=str(tmp_path)), records.append)
    assert isinstance(records[-1], End) and records[-1].outcome == "finished", records[-1]
    tags = {name: text for record in records if isinstance(record, Tags) for name, text in record.values.items()}
    assert tags[LEFT_OUT_TAG] == "1 left out that cannot be decoded: train/cat/zz.jpg (empty)"
    assert tags[PARTS_TAG] == "val/ is the test part (6 images)" and "env.passed_over" not in tags
