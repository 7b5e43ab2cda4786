"""Prepared stores: the embedded sets, image folders, and what survives crashes and company."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.design.imagefolder import scan_folder
from pipeline.design.records import End, Job
from pipeline.errors import InputError, OutsideError
from pipeline.training import worker
from pipeline.training.data import array_files, digits
from pipeline.training.data.store import ImageStore, prepare_dataset, verify_dataset
from tests.support.data import open_store, spec, write_folder


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
    prepare_dataset(name, data, image_size=32, check=True, report=lambda *_: seen.append("again"))
    assert "again" not in seen, "nothing to do"


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
