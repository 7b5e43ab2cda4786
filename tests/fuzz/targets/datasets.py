"""A prepared data set whose meta.json and arrays are others."""

from __future__ import annotations

from pathlib import Path

from pipeline.training.data.store import prepare_dataset, verify_dataset
from tests.fuzz import templates
from tests.fuzz.checks import Guard
from tests.fuzz.choices import Choices

WORDS = """
    class_names files native digest sha256 bytes shape dtype train_images descr fortran_order |O <U9 null []
    {} -1 1e9 ../x
"""


def seeds(cache: Path) -> list[bytes]:
    """The true meta.json, and decisions."""
    (meta,) = templates.data(cache).glob("stores/*/meta.json")
    return [b"\0" + meta.read_bytes(), b"\1\0\1\0\3\2", b"\2\1\2\3\4\5", b"\3\2\0\200\2\1", b"\4\3\1\1\1", b"\5\0"]


class Target:
    """Opens, verifies and repairs.

    Args:
        folder: to work in.
        cache: what targets share.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._template = folder, templates.data(cache)
        self._guard = Guard(folder)

    def __call__(self, data: bytes) -> None:
        """Tries one folder."""
        choices = Choices(data)
        place = templates.fresh(self._template, self._folder / "data")
        (store,) = place.glob("stores/*-v*/")
        kind = choices.below(6)
        if kind == 0:
            (store / "meta.json").write_bytes(choices.rest())
        else:
            path = choices.pick(sorted(store.iterdir()))
            content = path.read_bytes()
            path.write_bytes(choices.damaged(content[:128]) + content[128:] if kind < 4 else choices.damaged(content))
        with self._guard.watching():
            verify_dataset("digits", place)
            found = prepare_dataset("digits", place, image_size=16, check=kind % 2 == 1)
            assert len(found.train_images) == len(found.train_labels)
            assert all(isinstance(name, str) for name in found.class_names)
