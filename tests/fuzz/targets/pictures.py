"""Image folders: bytes and names of a picture."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.training.data.store import prepare_dataset
from tests.fuzz import templates
from tests.fuzz.checks import Guard
from tests.fuzz.choices import Choices
from tests.support.data import write_folder

WORDS = r"""
    %!PS-Adobe showpage \x89PNG IHDR IDAT RIFF WEBP JFIF GIF89a II* P6 BM <svg
"""
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".ppm", ".PNG", ".eps", ".txt", "")
STEMS = (
    b"a",
    b"",
    b" ",
    b"\xff\xfe",
    b"a\nb",
    b"\x1b[2J",
    "\u202e".encode(),
    b"-x",
    b"a" * 240,
    b".hidden",
    b"$(id)",
    b"%s",
)


def seeds(_cache: Path) -> list[bytes]:
    """A picture of each format, under a good name."""
    return [
        bytes([0, 0, 0, index % len(ENDINGS)]) + content for index, content in enumerate(templates.images().values())
    ]


class Target:
    """Prepares a folder with one picture more.

    Args:
        folder: to work in.
        _cache: what targets share.
    """

    def __init__(self, folder: Path, _cache: Path) -> None:
        self._root = write_folder(folder / "pictures", train=1, test=1, sizes=((8, 8),), endings=(".png",))
        self._folder = folder
        os.environ["XDG_CACHE_HOME"] = str(folder / "home")  # digests of folders are remembered there
        self._guard = Guard(folder)

    def __call__(self, data: bytes) -> None:
        """Tries one picture."""
        choices = Choices(data)
        split, stem = choices.pick(("train", "train", "test")), choices.pick(STEMS)
        label, ending = choices.pick(("cat", "cat", "cat", "dog")), choices.pick(ENDINGS).encode()
        name = os.fsdecode(stem + ending) or "x"
        path = self._root / split / label / name
        path.write_bytes(choices.rest())
        data_dir = self._folder / "data"
        try:
            with self._guard.watching():
                prepare_dataset(f"imagefolder:{self._root}", data_dir, image_size=8)
        finally:
            path.unlink()
            templates.emptied(data_dir)
