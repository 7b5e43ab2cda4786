"""Image folders: what they are stored as, and which image is to blame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.training.data import decode, imagefolder
from pipeline.training.data.store import FolderSource, ImageStore, prepare_dataset, verify_dataset
from tests.support.data import open_store, write_folder


def test_folder_of_equal_squares_is_stored_as_it_is(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", train=5, test=2)
    name = f"imagefolder:{root}"
    seen: list[tuple[str, int, int]] = []
    store = open_store(name, tmp_path / "data", report=lambda *line: seen.append(line))
    assert store.native and store.train_images.shape == (10, 32, 32, 3) and store.class_names == ("cat", "dog")
    assert store.train_labels.tolist() == [0] * 5 + [1] * 5
    assert store.listing is not None
    for row, file in enumerate(store.listing.train.names):
        pixels = decode.decode(root / file).permute(1, 2, 0).numpy()
        assert np.array_equal(store.train_images[row], pixels), file
    assert seen[-1] == ("decoding images", 14, 14) and verify_dataset(name, tmp_path / "data") == []
    # one native store serves every size
    assert open_store(name, tmp_path / "data", image_size=64).digest == store.digest
    assert len(list((tmp_path / "data" / "stores").glob("imagefolder-*-v1"))) == 1


def test_folder_of_mixed_sizes_is_resized_once_per_size(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", sizes=((40, 30), (24, 48), (32, 32)))
    name = f"imagefolder:{root}"
    store = open_store(name, tmp_path / "data", image_size=16)
    assert not store.native and store.train_images.shape == (12, 16, 16, 3)
    assert store.listing is not None
    # Pillow's bicubic is antialiased too: shorter side to 16, then the middle
    with Image.open(root / store.listing.train.names[0]) as image:
        small = image.convert("RGB").resize((round(16 * 40 / 30), 16), Image.Resampling.BICUBIC)
    left = round((small.width - 16) / 2)
    expected = np.asarray(small)[:, left : left + 16].astype(int)
    assert np.abs(store.train_images[0].astype(int) - expected).max() <= 3
    assert open_store(name, tmp_path / "data", image_size=24).train_images.shape == (12, 24, 24, 3)
    assert verify_dataset(name, tmp_path / "data") == []


def test_one_odd_image_at_the_end_makes_a_resized_store(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    Image.new("RGB", (48, 48)).save(root / "test" / "dog" / "zzz.png")
    store = open_store(f"imagefolder:{root}", tmp_path / "data", image_size=32)
    assert not store.native and store.test_images.shape == (7, 32, 32, 3)
    assert not list((tmp_path / "data" / "stores").glob("*native*")), "nothing is left of the first try"


def test_equal_oblongs_are_resized(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", sizes=((40, 30),))
    store = open_store(f"imagefolder:{root}", tmp_path / "data", image_size=16)
    assert not store.native and store.train_images.shape == (12, 16, 16, 3)


def test_large_folder_stays_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set")
    monkeypatch.setattr(imagefolder, "MAX_STORE_BYTES", 18 * 32 * 32 * 3 - 1)
    source = prepare_dataset(f"imagefolder:{root}", tmp_path / "data", image_size=32)
    assert isinstance(source, FolderSource) and source.train_labels.tolist() == [0] * 6 + [1] * 6
    monkeypatch.setattr(imagefolder, "build_image_folder", lambda *_: pytest.fail("decoded again"))
    again = prepare_dataset(f"imagefolder:{root}", tmp_path / "data", image_size=32)
    assert again == source and verify_dataset(source.name, tmp_path / "data") == []
    monkeypatch.undo()
    smaller = prepare_dataset(f"imagefolder:{root}", tmp_path / "data", image_size=16)
    assert isinstance(smaller, ImageStore)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _text(path: Path) -> None:
    path.write_text("no image")


def _bomb(path: Path) -> None:
    # a PNG that claims 60,000 x 60,000 pixels in 100 bytes
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncated, _text, _bomb, Path.touch], ids=["cut", "text", "bomb", "touched"])
@pytest.mark.parametrize("name", ["train/dog/001.jpg", "test/cat/001.jpg", "train/cat/000.png"])
def test_unreadable_image_is_named(damage: Any, name: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", endings=(".png", ".jpg"))
    path = root / name
    assert path.exists()
    if damage is Path.touch:
        path.write_bytes(b"")
    damage(path)
    with pytest.raises(InputError) as caught:
        open_store(f"imagefolder:{root}", tmp_path / "data")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "data" / "stores").glob("*-v1*/"))
