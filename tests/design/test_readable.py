"""Images that cannot be decoded: all are found and counted, with a cause, and as many as allowed are left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.design import readable
from pipeline.design.imagefolder import FolderListing, scan_folder
from pipeline.design.readable import leave_out_unreadable, unreadable
from pipeline.errors import InputError
from tests.support.data import write_folder


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is remembered by content, which other tests have, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Three of 18 images are none."""
    root = write_folder(tmp_path / "set", endings=(".jpg", ".png"))
    cut = root / "train" / "dog" / "001.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    (root / "train" / "cat" / "002.jpg").write_text("<html>nothing</html>")
    (root / "test" / "cat" / "002.jpg").write_bytes(b"")
    return root


CAUSES = {
    "train/dog/001.png": "truncated or damaged",
    "train/cat/002.jpg": "not an image: starts with '<html>nothin'",
    "test/cat/002.jpg": "empty",
}


def scan(root: Path) -> FolderListing:
    return scan_folder(root, "dataset")


def test_they_are_left_out_and_said(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = leave_out_unreadable(scan(spoilt), 3)
    assert set(listing.left_out) == set(CAUSES) and listing.causes == CAUSES
    assert not set(CAUSES) & {*listing.train.names, *listing.test.names}
    assert (len(listing.train), len(listing.test)) == (10, 5)
    assert listing.remarks == [
        "3 left out that cannot be decoded: test/cat/002.jpg (empty), train/cat/002.jpg (not an image: starts with "
        "'<html>nothin'), train/dog/001.png (truncated or damaged)"
    ]
    monkeypatch.setattr(readable, "_tried", lambda *_: pytest.fail("looked at again"))
    assert leave_out_unreadable(scan(spoilt), 5) == listing, "what was found is remembered"


def test_more_than_allowed_are_all_counted(spoilt: Path) -> None:
    with pytest.raises(InputError) as caught:
        leave_out_unreadable(scan(spoilt), 2)
    message = str(caught.value)
    assert message.startswith("dataset: 3 of 18 images cannot be decoded, more than --skip-unreadable 2: ")
    assert "test/cat/002.jpg' (empty), " in message and message.endswith("or --skip-unreadable 3 to leave them out")


def test_with_none_allowed_nothing_is_looked_at(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readable, "_tried", lambda *_: pytest.fail("looked at"))
    listing = scan(spoilt)
    assert leave_out_unreadable(listing, 0) is listing


def test_what_is_left_out_is_of_the_identity(spoilt: Path) -> None:
    whole, less = scan(spoilt), leave_out_unreadable(scan(spoilt), 9)
    assert less.digest != whole.digest
    for name in CAUSES:
        (spoilt / name).unlink()
    assert scan(spoilt).digest not in (whole.digest, less.digest), "their content was part of it"


def test_a_sound_folder_is_as_it_was(tmp_path: Path) -> None:
    listing = scan(write_folder(tmp_path / "set"))
    assert leave_out_unreadable(listing, 5) is listing and listing.remarks == []


def test_progress_is_reported(spoilt: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    leave_out_unreadable(scan(spoilt), 3, lambda *line: seen.append(line))
    assert seen[-1] == ("looking for images that cannot be decoded", 18, 18)


def test_what_is_remembered_may_be_damaged(spoilt: Path) -> None:
    leave_out_unreadable(scan(spoilt), 3)
    for damaged in ("", "[]", '{"a": 1}'):
        for place in (readable.default_data_dir() / "digests").glob("*-unreadable-*.json"):
            place.write_text(damaged)
        assert len(leave_out_unreadable(scan(spoilt), 3).left_out) == 3


def test_one_is_named_many_are_counted(tmp_path: Path) -> None:
    assert str(unreadable(tmp_path, {"a.jpg": "empty"}, 9)) == (
        f"dataset: '{tmp_path}/a.jpg' cannot be decoded (empty); allowed: complete image files, "
        "or --skip-unreadable 1 to leave it out"
    )
    many = str(unreadable(tmp_path, {f"{number}.jpg": "empty" for number in range(10_000)}, 60_000))
    assert many.startswith("dataset: 10,000 of 60,000 images cannot be decoded: ") and len(many) < 1000
    hostile = str(unreadable(tmp_path, {"\x1b[2J\n.jpg": "starts with \x1b"}, 9))
    assert hostile.isprintable()


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, pipeline.design.readable; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
