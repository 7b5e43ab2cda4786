"""The two embedded sets: real images, offline, from scikit-learn's bundled handwritten digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.training.data.array_files import Built, write_arrays

# fixed for ever: another value is another data set, and needs another store version
_SEED = 2312
_TEST_SHARE = 0.25
_PAIRS = {"train": 40, "test": 10}


def build_digits(dataset: str, work: Path) -> Built:
    """Writes `digits` (8x8 px, 10 classes) or `digits100` (16x16 px, 100 classes) into `work`."""
    values, names = digits() if dataset == "digits" else digits100()
    return write_arrays(work, names, values)


def digits() -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """The 1,797 digits at their native 8x8, split 3 to 1 within each class by a fixed seed.

    Intensities 0 to 16 become 0 to 255, in three equal channels.

    Returns:
        (array name -> array as in `ImageStore`, class names).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    random = np.random.RandomState(_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        test[members[: round(_TEST_SHARE * len(members))]] = True
    return {
        "train_images": _three_channels(images[~test]),
        "train_labels": labels[~test],
        "test_images": _three_channels(images[test]),
        "test_labels": labels[test],
    }, tuple(str(label) for label in range(10))


def digits100() -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """Two digits side by side, class 10 * left + right: 40 training and 10 test images of every class.

    Training images are made of training digits only, test images of test digits only. The 8x16 px pair is
    centred in 16x16 px on the background (0).

    Returns:
        (array name -> array as in `ImageStore`, class names).
    """
    single, _names = digits()
    random = np.random.RandomState(_SEED)
    values: dict[str, npt.NDArray[Any]] = {}
    for split, pairs in _PAIRS.items():
        images, labels = single[f"{split}_images"], single[f"{split}_labels"]
        classes = np.repeat(np.arange(100, dtype=np.int64), pairs)
        canvas = np.zeros((len(classes), 16, 16, 3), dtype=np.uint8)
        for row, label in enumerate(classes):
            left = random.choice(np.flatnonzero(labels == label // 10))
            right = random.choice(np.flatnonzero(labels == label % 10))
            canvas[row, 4:12, :8] = images[left]
            canvas[row, 4:12, 8:] = images[right]
        values[f"{split}_images"] = canvas
        values[f"{split}_labels"] = classes
    return values, tuple(f"{label:02d}" for label in range(100))


def _three_channels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(images[..., None], 3, axis=3)
