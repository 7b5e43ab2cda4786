"""Listing the files of an image folder (what is listed and refused is in test_imagefolder)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.design.image_files import SplitFiles, class_folders, images_of, is_hidden, is_image, leads_inside
from pipeline.errors import InputError
from tests.support.data import write_folder


def test_parts_are_added_and_picked_from() -> None:
    first, second = SplitFiles(("a", "b"), (0, 1), (5, 6), (7, 8)), SplitFiles(("c",), (0,), (9,), (9,))
    assert first + second == SplitFiles(("a", "b", "c"), (0, 1, 0), (5, 6, 9), (7, 8, 9))
    assert (first + second).rows([2, 0]) == SplitFiles(("c", "a"), (0, 0), (9, 5), (9, 7))
    assert len(first) == 2 and len(SplitFiles()) == 0


def test_classes_and_images_are_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", classes=("wei\u00df", "a b"), train=2)
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/x"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_text("x")
    skipped: Counter[str] = Counter()
    assert class_folders(root, root / "train", "dataset", skipped) == ["a b", "wei\u00df"]
    assert [name for name, _size, _time in images_of(root, root / "train" / "wei\u00df", "dataset", skipped)] == [
        "000.jpg",
        "001.png",
    ]
    assert skipped == {"hidden": 2, ".db": 1}


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="cat': has no images"):
        images_of(tmp_path, tmp_path / "cat", "dataset", Counter())


def test_words() -> None:
    assert is_image("A.JPG") and not is_image("Thumbs.db")
    assert is_hidden("__MACOSX") and is_hidden(".x") and not is_hidden("x")


def test_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    assert leads_inside(tmp_path / "in", str(tmp_path / "in" / "file"))
    assert not leads_inside(tmp_path / "in", str(tmp_path / "in" / "out"))
    assert not leads_inside(tmp_path, "a\0b")
