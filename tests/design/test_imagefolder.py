"""Image folders: what is listed, what is refused, and what the digests see."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.design import file_digests
from pipeline.design.imagefolder import ENDINGS, scan_folder
from pipeline.errors import InputError
from pipeline.paths import default_data_dir
from tests.support.data import write_folder


def test_lists_sorted_by_class_and_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", classes=("dog", "ape"), train=3, test=1)
    listing = scan_folder(root, "dataset")
    assert listing.classes == ("ape", "dog")
    assert listing.train.names[:2] == ("train/ape/000.png", "train/ape/001.jpg")
    assert listing.train.labels == (0, 0, 0, 1, 1, 1) and listing.test.labels == (0, 1)
    assert listing.train.sizes[0] == (root / listing.train.names[0]).stat().st_size


def test_test_split_may_lack_classes_and_keeps_train_labels(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", classes=("ape", "dog"))
    shutil.rmtree(root / "test" / "ape")
    assert set(scan_folder(root, "dataset").test.labels) == {1}


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    before = scan_folder(root, "dataset")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    (root / "train" / "cat" / ".hidden.jpg").write_text("x")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "README").write_text("x")
    after = scan_folder(root, "dataset")
    assert after == before and after.digest == before.digest and before.passed_over == ""
    assert after.passed_over == "4 passed over: 2 hidden, 1 .txt, 1 without ending"


def test_torchvision_takes_no_file_that_is_passed_over() -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(IMG_EXTENSIONS) <= set(ENDINGS)


def test_many_kinds_of_other_files_are_one_short_line(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    for number in range(20):
        (root / "test" / "dog" / f"a.e{number}\x1b").write_text("x")
    said = scan_folder(root, "dataset").passed_over
    assert said.startswith("20 passed over: 1 .e") and said.endswith(", ..") and said.isprintable() and len(said) < 120


def test_what_is_no_file_is_passed_over_and_never_opened(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    before = scan_folder(root, "dataset")
    os.mkfifo(root / "train" / "cat" / "fifo.png")
    os.mkfifo(root / "train" / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "test" / "dog" / "socket.jpg"))
    (root / "train" / "cat" / "link.png").symlink_to(root / "train" / "cat" / "fifo.png")
    after = scan_folder(root, "dataset")
    assert after == before and after.digest == before.digest
    assert after.passed_over == "4 passed over: 4 no regular file"


def test_a_file_that_turns_into_a_fifo_is_one_line(tmp_path: Path) -> None:
    listing = scan_folder(write_folder(tmp_path / "set"), "dataset")
    image = tmp_path / "set" / listing.train.names[0]
    image.unlink()
    os.mkfifo(image)
    with pytest.raises(InputError, match=r"dataset: .*not a regular file.*allowed: files that can be read"):
        listing.digest  # noqa: B018


@pytest.mark.parametrize("name", ["~nosuchuser/set", "a\0b", "x" * 5000])
def test_a_name_that_no_folder_can_have_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^dataset: .*allowed: a folder with train/CLASS") as caught:
        scan_folder(Path(name), "dataset")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["JPG", "Jpeg", "png", "BMP", "webp", "tif", "TIFF", "ppm", "pgm", "jfif", "gif"])
def test_endings_in_any_case(ending: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "train" / "cat" / f"zzz.{ending}").write_bytes(b"listed, not decoded")
    assert f"train/cat/zzz.{ending}" in scan_folder(root, "dataset").train.names


def _empty(root: Path) -> None:
    for child in root.iterdir():
        shutil.rmtree(child)


def _empty_class(root: Path) -> None:
    for file in (root / "train" / "cat").iterdir():
        file.unlink()


def _only_text(root: Path) -> None:
    _empty_class(root)
    (root / "train" / "cat" / "a.txt").write_text("x")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "no such folder"),
        (_empty, "train': no such folder"),
        (lambda root: shutil.rmtree(root / "test"), "test': no such folder"),
        (lambda root: _empty(root / "train"), "no class folder"),
        (_empty_class, "cat': has no images"),
        (_only_text, r"\.jpg \.jpeg \.png \.bmp \.webp"),
        (lambda root: (root / "test" / "zebra").mkdir(), "zebra': has no images"),
        (lambda root: shutil.copytree(root / "test" / "cat", root / "test" / "zebra"), "zebra.*not in train"),
        (lambda root: (root / "train" / "cat" / "deeper").mkdir(), "folder inside a class folder"),
    ],
)
def test_refuses_in_one_line(damage: object, said: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    damage(root)
    with pytest.raises(InputError, match=said) as caught:
        scan_folder(root, "--datasets")
    message = str(caught.value)
    assert message.startswith("--datasets: ") and "allowed: " in message and "\n" not in message


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no such folder"):
        scan_folder(tmp_path / "file", "dataset")


@pytest.mark.parametrize("where", ["train/cat/link.jpg", "train/link", "train/cat/gone.jpg"])
def test_links_that_lead_out_are_refused(where: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    outside = write_folder(tmp_path / "other") / "train" / "cat"
    target = outside if where == "train/link" else outside / "000.jpg"
    (root / where).symlink_to(root / "nothing" if "gone" in where else target)
    with pytest.raises(InputError, match="link out of the folder"):
        scan_folder(root, "dataset")


def test_links_inside_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "train" / "cat" / "link.jpg").symlink_to(root / "train" / "cat" / "000.jpg")
    (tmp_path / "alias").symlink_to(root)
    listing = scan_folder(tmp_path / "alias", "dataset")
    assert "train/cat/link.jpg" in listing.train.names and listing.root == root


def test_digest_is_of_names_and_contents_wherever_the_folder_lies(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    first = scan_folder(root, "dataset")
    shutil.copytree(root, tmp_path / "copy")
    copy = scan_folder(tmp_path / "copy", "dataset")
    assert copy.digest == first.digest
    assert copy.stamp != first.stamp, "what is remembered belongs to one folder"
    image = root / first.train.names[0]
    with image.open("ab") as file:
        file.write(b"x")
    grown = scan_folder(root, "dataset")
    assert grown.digest != first.digest
    image.rename(image.with_name("renamed.jpg"))
    assert scan_folder(root, "dataset").digest not in (first.digest, grown.digest)


def test_digest_sees_a_change_that_hides(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    _age(root)
    first = scan_folder(root, "dataset")
    before = first.digest
    image = root / first.train.names[0]
    stat = image.stat()
    image.write_bytes(bytes(reversed(image.read_bytes())))
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = scan_folder(root, "dataset")
    assert changed.train.sizes == first.train.sizes and image.stat().st_mtime_ns == stat.st_mtime_ns
    assert changed.digest != before


def _age(root: Path) -> None:
    """Waits until files that were just written count as settled."""
    newest = max(path.stat().st_ctime_ns for path in root.rglob("*.*"))
    time.sleep(max(0.0, (newest + file_digests.UNSETTLED_NS - time.time_ns()) / 1e9 + 0.01))


def test_digest_is_remembered_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls: list[int] = []
    original = file_digests.digests

    def counted(root: Path, names: Sequence[str]) -> list[str]:
        calls.append(len(names))
        return original(root, names)

    monkeypatch.setattr(file_digests, "digests", counted)
    root = write_folder(tmp_path / "set")
    first = scan_folder(root, "dataset").digest
    assert calls == [12, 6]
    assert scan_folder(root, "dataset").digest == first and len(calls) == 4, "changed just now: not trusted"
    _age(root)
    for _ in range(3):
        assert scan_folder(root, "dataset").digest == first
    assert len(calls) == 6
    for damaged in ("", "[]", '{"key": "other", "digest": "00000000000000000000000000000000"}'):
        next((tmp_path / "cache" / "ablate" / "data" / "digests").glob("*.json")).write_text(damaged)
        assert scan_folder(root, "dataset").digest == first
    assert len(calls) == 12


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "set")
    _age(root)
    assert scan_folder(root, "dataset").digest == scan_folder(root, "dataset").digest


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    listing = scan_folder(write_folder(tmp_path / "set"), "dataset")
    (tmp_path / "set" / listing.test.names[0]).unlink()
    with pytest.raises(InputError, match=r"dataset: .*test/cat/000.*allowed: files that can be read"):
        listing.digest  # noqa: B018


def test_names_that_are_not_text(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    name = os.fsencode(root / "train" / "cat") + b"/\xff\n.jpg"
    try:
        Path(os.fsdecode(name)).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes no such name")
    listing = scan_folder(root, "dataset")
    assert len(listing.digest) == len(listing.stamp) == 32


def test_many_files_are_listed_fast(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / split / "a"
        folder.mkdir(parents=True)
        for index in range(1000):
            (folder / f"{index}.jpg").touch()
    start = time.process_time()
    scan_folder(tmp_path, "dataset").stamp  # noqa: B018
    # 60,000 files in 6 s of processor time at most, on a slow and busy machine
    assert time.process_time() - start < 0.2


def test_default_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "ablate" / "data"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_data_dir() == tmp_path / "home" / ".cache" / "ablate" / "data"


def test_listing_imports_nothing_heavy() -> None:
    code = "import sys, pipeline.design.imagefolder; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
