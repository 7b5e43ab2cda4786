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
from typing import Any

import pytest

from pipeline.design import file_digests, folder_split
from pipeline.design.image_files import ENDINGS
from pipeline.design.imagefolder import FolderListing, scan_folder
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
        (_empty, "set': has no class folder"),
        (lambda root: shutil.rmtree(root / "train"), "train': no such folder"),
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

    def counted(root: Path, names: Sequence[str], tell: Any = None) -> list[str]:
        calls.append(len(names))
        return original(root, names, tell)

    monkeypatch.setattr(file_digests, "digests", counted)
    root = write_folder(tmp_path / "set")
    first = scan_folder(root, "dataset").digest
    assert calls == [18]
    assert scan_folder(root, "dataset").digest == first and len(calls) == 2, "changed just now: not trusted"
    _age(root)
    for _ in range(3):
        assert scan_folder(root, "dataset").digest == first
    assert len(calls) == 3
    for damaged in ("", "[]", '{"key": "other", "digest": "00000000000000000000000000000000"}'):
        next((tmp_path / "cache" / "ablate" / "data" / "digests").glob("*.json")).write_text(damaged)
        assert scan_folder(root, "dataset").digest == first
    assert len(calls) == 6


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


def _named(listing: FolderListing) -> dict[str, int]:
    return {"train": len(listing.train) - listing.held_out, "val": listing.held_out, "test": len(listing.test)}


@pytest.mark.parametrize(
    ("names", "parts", "said"),
    [
        ({"train": "Train", "test": "TEST"}, {"train": 12, "val": 0, "test": 6}, ""),
        ({"test": "val"}, {"train": 12, "val": 0, "test": 6}, "val/ is the test part (6 images)"),
        ({"test": "Valid"}, {"train": 12, "val": 0, "test": 6}, "Valid/ is the test part (6 images)"),
        ({"test": "validation"}, {"train": 12, "val": 0, "test": 6}, "validation/ is the test part (6 images)"),
        (
            {"other/train": "val"},
            {"train": 12, "val": 8, "test": 6},
            "val/ is held out for validation (8 images), instead of a part of train",
        ),
        (
            {"test": "../gone"},
            {"train": 10, "val": 0, "test": 2},
            "no test part: 2 of the 12 images of train/ are set aside as one (20 % of each class)",
        ),
        (
            {"test": "../gone", "train/cat": "cat", "train/dog": "dog", "train": "../empty"},
            {"train": 10, "val": 0, "test": 2},
            "no test part: 2 of the 12 images of the class folders are set aside as one (20 % of each class)",
        ),
        ({"other/train": "unlabelled"}, {"train": 12, "val": 0, "test": 6}, "not used: unlabelled/"),
    ],
)
def test_parts_as_people_have_them(names: dict[str, str], parts: dict[str, int], said: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    if any(name.startswith("other") for name in names):
        write_folder(root / "other", train=4)
    for old, new in names.items():
        (root / old).rename(root / new)
    shutil.rmtree(root / "other", ignore_errors=True)
    listing = scan_folder(root, "dataset")
    assert _named(listing) == parts and listing.parts == said and listing.classes == ("cat", "dog")
    every = [*listing.train.names, *listing.test.names]
    assert len(set(every)) == len(every) and all((root / name).is_file() for name in every)
    for part in (listing.train, listing.test):
        assert [listing.classes[label] for label in part.labels] == [Path(name).parent.name for name in part.names]


def test_existing_folders_keep_their_digest(tmp_path: Path) -> None:
    """What was measured on `train/` and `test/` before there were other parts stays known."""
    for part, names in (("train", ("a.png", "b.png")), ("test", ("a.png",))):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for name in names:
                (tmp_path / part / label / name).write_text(part + label + name)
    assert scan_folder(tmp_path, "dataset").digest == "535c42323c0b7ede6bdaeecf1d47c597"


def test_the_digest_knows_which_image_is_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set", train=10)
    shutil.rmtree(root / "test")
    flat = tmp_path / "flat"
    shutil.copytree(root / "train", flat)
    only_train, classes = scan_folder(root, "dataset"), scan_folder(flat, "dataset")
    digests = {only_train.digest, classes.digest}
    assert [Path(name).name for name in only_train.test.names] == [Path(name).name for name in classes.test.names]
    monkeypatch.setattr(folder_split, "RULE", "another")
    assert scan_folder(flat, "dataset").digest != classes.digest, "a change of the rule is another data set"
    monkeypatch.undo()
    shutil.copytree(flat, root / "val")
    as_test = scan_folder(root, "dataset").digest
    shutil.copytree(flat, root / "test")
    held_out = scan_folder(root, "dataset").digest
    shutil.rmtree(root / "val")
    assert len(digests | {as_test, held_out, scan_folder(root, "dataset").digest}) == 5
    shutil.copytree(root / "train", root / "val")
    assert scan_folder(root, "dataset").digest == held_out


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (("train/cat", "Train/cat"), "has 'Train' and 'train'; allowed: one folder for each part"),
        (("train/cat", "val/cat", "valid/cat"), "has 'val' and 'valid'"),
        (("val/cat", "test/cat"), "train': no such folder"),
        (("train/cat", "val/dog"), "val/dog': class is not in train/"),
        (("cat/kitten", "dog"), "cat/kitten': folder inside a class folder"),
        (("cat",), "class 'cat' has one image; allowed: two images or more of every class"),
    ],
)
def test_parts_that_are_refused(made: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for name in made:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_text("x")
    with pytest.raises(InputError, match=said) as caught:
        scan_folder(tmp_path, "dataset")
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    for name in ("test", "exam", "val"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"{number}.png").write_text("x")
    listing = scan_folder(tmp_path, "dataset")
    assert listing.classes == ("exam", "test", "val") and _named(listing) == {"train": 12, "val": 0, "test": 3}


def test_a_table_beside_images_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(InputError, match=r"has no class folder.*did you mean imagefolder:.*labels\.csv\?"):
        scan_folder(tmp_path, "dataset")


def test_a_linked_part_may_lie_elsewhere_and_a_linked_class_inside(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "test").rename(tmp_path / "elsewhere")
    (root / "test").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "puma").symlink_to(root / "train" / "cat")
    listing = scan_folder(root, "dataset")
    assert listing.classes == ("cat", "dog", "puma") and _named(listing) == {"train": 18, "val": 0, "test": 6}


def test_some_images_and_all_but_some(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", train=3, test=2)
    shutil.copytree(root / "test", root / "val")
    listing = scan_folder(root, "dataset")
    first = listing.train.names[0]
    assert listing.held_out == 4 and first.startswith("train/cat/000")
    gone = {first: "empty", "val/dog/001" + Path(listing.train.names[-1]).suffix: "empty"}
    less = listing.without(gone)
    assert (_named(less), less.left_out) == ({"train": 5, "val": 3, "test": 4}, tuple(sorted(gone)))
    some = listing.only([0, 9], [1])
    assert some.train.names == (first, listing.train.names[9]) and len(some.test) == 1


def test_the_digest_tells_how_far_it_is(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    listing = scan_folder(write_folder(tmp_path / "set"), "dataset")
    assert listing.know_digest(lambda *line: seen.append(line)) == listing.digest
    assert seen == [("reading images", 18, 18)]
    listing.know_digest(lambda *_: pytest.fail("read again"))
