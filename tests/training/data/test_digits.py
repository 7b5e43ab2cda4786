"""The embedded sets: their images, their split and their moments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipeline.design import catalog
from tests.support.data import open_store


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
