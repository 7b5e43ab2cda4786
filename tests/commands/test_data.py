"""`ablate data`: preparing and verifying data sets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import ablate_in_process
from tests.support.commands import assert_refused
from tests.support.data import write_folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "prepare", "nonsense"), ("dataset", "'nonsense'", "digits")),
        (("data", "verify", "nonsense"), ("dataset", "'nonsense'", "digits")),
        (("data", "prepare"), ("NAMES",)),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate(*arguments), words, tmp_path)


def test_a_data_set_is_prepared_and_then_verified(tmp_path: Path) -> None:
    words = ("digits", "--data-dir", "here")
    prepared = ablate_in_process("data", "prepare", *words, cwd=tmp_path)
    assert (prepared.code, prepared.err) == (0, "")
    assert prepared.out == "digits: 1347 training and 450 test images, 10 classes\n"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    verified = ablate_in_process("data", "verify", *words, cwd=tmp_path)
    assert (verified.code, verified.out) == (0, "digits: ok\n")
    for path in (tmp_path / "here").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    damaged = ablate_in_process("data", "verify", *words, cwd=tmp_path)
    assert damaged.code == 1 and damaged.out.startswith("digits: ") and "ok" not in damaged.out


def test_a_slip_in_the_last_name_prepares_nothing(ablate: Any, tmp_path: Path) -> None:
    assert_refused(ablate("data", "prepare", "digits", "digit", "--data-dir", "here"), ("'digit'",), tmp_path)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", endings=(".tif", ".gif", ".ppm"))
    (root / "train" / "cat" / "notes.txt").write_text("x")
    os.mkfifo(root / "train" / "cat" / "fifo.png")
    prepared = ablate_in_process("data", "prepare", f"imagefolder:{root}", "--data-dir", "here", cwd=tmp_path)
    assert (prepared.code, prepared.err) == (0, "")
    lines = prepared.out.splitlines()
    assert lines[0].endswith(": 12 training and 6 test images, 2 classes")
    assert lines[1:] == [f"imagefolder:{root}: 2 passed over: 1 .txt, 1 no regular file"]


def test_images_that_cannot_be_decoded_are_counted_and_may_be_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    for name in ("train/cat/y.jpg", "test/dog/z.png"):
        (root / name).write_bytes(b"")
    words = ("data", "prepare", f"imagefolder:{root}", "--data-dir", "here")
    refused = ablate_in_process(*words, cwd=tmp_path)
    assert refused.code == 2 and refused.out == "" and len(refused.err.splitlines()) == 1
    assert "2 of 20 images cannot be decoded: " in refused.err and "y.jpg' (empty)" in refused.err
    assert refused.err.endswith("or --skip-unreadable 2 to leave them out\n")
    assert ablate_in_process(*words, "--skip-unreadable", "1", cwd=tmp_path).code == 2
    prepared = ablate_in_process(*words, "--skip-unreadable", "2", cwd=tmp_path)
    assert prepared.code == 0 and prepared.out.splitlines() == [
        f"imagefolder:{root}: 12 training and 6 test images, 2 classes",
        f"imagefolder:{root}: 2 left out that cannot be decoded: test/dog/z.png (empty), train/cat/y.jpg (empty)",
    ]
    verify = ("data", "verify", f"imagefolder:{root}", "--data-dir", "here")
    assert ablate_in_process(*verify, "--skip-unreadable", "2", cwd=tmp_path).code == 0
    assert ablate_in_process(*verify, cwd=tmp_path).code == 1


def test_a_validation_folder_is_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    shutil.copytree(root / "test", root / "val")
    prepared = ablate_in_process("data", "prepare", f"imagefolder:{root}", "--data-dir", "here", cwd=tmp_path)
    assert prepared.out.splitlines() == [
        f"imagefolder:{root}: 12 training, 6 validation and 6 test images, 2 classes",
        f"imagefolder:{root}: val/ is held out for validation (6 images), instead of a part of train",
    ]
