"""Prepared stores: the embedded sets, image folders, and what survives crashes and company."""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.design import catalog
from pipeline.design.imagefolder import scan_folder
from pipeline.design.records import End, Job
from pipeline.errors import InputError, OutsideError
from pipeline.training import worker
from pipeline.training.data import array_files, decode, digits, imagefolder
from pipeline.training.data.store import FolderSource, ImageStore, prepare_dataset, verify_dataset
from tests.support.data import spec, write_folder


def open_store(name: str, data_dir: Path, **options: Any) -> ImageStore:
    store = prepare_dataset(name, data_dir, image_size=options.pop("image_size", 32), **options)
    assert isinstance(store, ImageStore)
    return store


def test_digits_are_the_bundled_images_split_by_class(tmp_path: Path) -> None:
    store = open_store("digits", tmp_path)
    assert store.train_images.shape == (1347, 8, 8, 3) and store.test_images.shape == (450, 8, 8, 3)
    made = np.concatenate([store.train_images, store.test_images])
    assert (made == made[..., :1]).all(), "three equal channels"
    original = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in made[..., 0]) == sorted(image.tobytes() for image in original)
    assert made.max() == 255 and np.abs(np.bincount(store.test_labels) - 45).max() <= 1
    # frozen: another digest is another data set and needs another store version
    assert store.digest == "6a3e29e654909f532033bcc994ca7c99"


def test_digits100_pairs_disjoint_digits(tmp_path: Path) -> None:
    store, single = open_store("digits100", tmp_path), open_store("digits", tmp_path)
    assert store.train_images.shape == (4000, 16, 16, 3) and store.test_images.shape == (1000, 16, 16, 3)
    assert (np.bincount(store.train_labels) == 40).all() and (np.bincount(store.test_labels) == 10).all()
    assert store.class_names[7] == "07" and len(store.class_names) == 100
    for split in ("train", "test"):
        pairs, labels = getattr(store, f"{split}_images"), getattr(store, f"{split}_labels")
        assert (pairs[:, :4] == 0).all() and (pairs[:, 12:] == 0).all()
        known: dict[bytes, set[int]] = {}
        for image, label in zip(getattr(single, f"{split}_images"), getattr(single, f"{split}_labels"), strict=True):
            known.setdefault(image.tobytes(), set()).add(int(label))
        for image, label in zip(pairs, labels, strict=True):
            assert label // 10 in known[image[4:12, :8].tobytes()]
            assert label % 10 in known[image[4:12, 8:].tobytes()]
    assert store.digest == "0076e352000e1bb708aa483198fbda80"


@pytest.mark.parametrize("name", ["digits", "digits100"])
def test_catalog_has_the_moments_of_the_training_part(name: str, tmp_path: Path) -> None:
    pixels = open_store(name, tmp_path).train_images.astype(np.float64) / 255
    row = catalog.dataset(name)
    assert np.allclose(row.mean, pixels.mean(axis=(0, 1, 2)), atol=1e-3)
    assert np.allclose(row.std, pixels.std(axis=(0, 1, 2)), atol=1e-3)


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
    ],
    ids=["short", "long", "shape", "missing", "no meta", "torn meta", "other meta"],
)
def test_damaged_store_is_reported_and_rebuilt(damage: Any, tmp_path: Path) -> None:
    digest = open_store("digits", tmp_path).digest
    damage(_place(tmp_path))
    assert verify_dataset("digits", tmp_path)
    store = open_store("digits", tmp_path)
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


def test_verify_finds_one_flipped_bit(tmp_path: Path) -> None:
    assert "not prepared" in verify_dataset("digits", tmp_path)[0]
    open_store("digits", tmp_path)
    assert verify_dataset("digits", tmp_path) == []
    path = _place(tmp_path) / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problems = verify_dataset("digits", tmp_path)
    assert len(problems) == 1 and str(path) in problems[0] and "SHA-256" in problems[0]


def test_unwritable_place_is_outside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutsideError, match="data directory"):
        open_store("digits", tmp_path / "file")


def test_full_disk_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutsideError, match="No space left"):
        open_store("digits", tmp_path)
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["digits-v1.lock"]


def _prepare_slowly(data_dir: Path, locks: bool, results: Any) -> None:
    write = array_files.write_arrays

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        results.put("built")
        return write(*arguments)

    digits.write_arrays = slow  # type: ignore[attr-defined]
    if not locks:
        fcntl.flock = _no_lock  # type: ignore[assignment]
    results.put(open_store("digits", data_dir).digest)


def _no_lock(*_arguments: Any) -> None:
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_processes_preparing_at_once_all_succeed(locks: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_prepare_slowly, args=(tmp_path, locks, results)) for _ in range(3)]
    for child in children:
        child.start()
    said = [results.get(timeout=60) for _ in range(4 if locks else 6)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert said.count("built") == (1 if locks else 3)
    assert set(said) == {"built", "6a3e29e654909f532033bcc994ca7c99"}
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["digits-v1", "digits-v1.lock"]


def _die_while_building(data_dir: Path) -> None:
    write = array_files.write_array

    def killed(work: Path, name: str, *arguments: Any) -> Any:
        if name == "test_images":
            os.kill(os.getpid(), signal.SIGKILL)
        return write(work, name, *arguments)

    array_files.write_array = killed  # type: ignore[assignment]
    open_store("digits", data_dir)


def test_killed_preparation_is_redone_and_swept(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_die_while_building, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "stores").iterdir() if path.is_dir()]
    assert len(left) == 1 and left[0].startswith(".digits-v1-"), "half a store, under no store's name"
    assert "not prepared" in verify_dataset("digits", tmp_path)[0]
    assert open_store("digits", tmp_path).digest == "6a3e29e654909f532033bcc994ca7c99"
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["digits-v1", "digits-v1.lock"]


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


def test_changed_folder_gets_a_new_store(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", endings=(".png",))
    name = f"imagefolder:{root}"
    first = open_store(name, tmp_path / "data")
    Image.new("RGB", (32, 32), (255, 0, 0)).save(root / "train" / "cat" / "000.png")
    assert "not prepared, or changed since" in verify_dataset(name, tmp_path / "data")[0]
    assert open_store(name, tmp_path / "data").digest != first.digest


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


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".webp"])
def test_every_kind_of_image_becomes_rgb(mode: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{ending}"
    gray = Image.linear_gradient("L").resize((16, 16))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    else:
        image = gray.convert("RGB").convert(mode) if mode != "1" else gray.convert("1")
    try:
        image.save(path)
    except (OSError, ValueError):
        pytest.skip("the format has no such mode")
    decoded = decode.decode(path)
    assert decoded.shape == (3, 16, 16) and decoded.dtype == torch.uint8
    if mode in ("L", "I;16") and ending == ".png":
        assert np.array_equal(decoded[0].numpy(), np.asarray(gray)), "scaled, not clipped"


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((16, 16)).convert("P")
    image.save(tmp_path / "image.png", transparency=bytes([0, 128] * 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.decode(tmp_path / "image.png").shape == (3, 16, 16)


def test_store_is_readable_by_the_group(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        open_store("digits", tmp_path)
    finally:
        os.umask(old)
    assert _place(tmp_path).stat().st_mode & 0o777 == 0o755
    assert json.loads((_place(tmp_path) / "meta.json").read_text())["files"].keys() == set(array_files.NAMES)


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
