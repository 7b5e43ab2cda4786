"""The confusion matrix's picture says what the matrix says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.training.confusion_plot import draw_confusion


def _dark(path: Path) -> float:
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    return float((pixels < 90).mean())


@pytest.mark.parametrize("classes", [2, 10, 20, 100, 1000])
def test_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    names = tuple(f"a rather long name of class {number}" for number in range(classes))
    draw_confusion(np.eye(classes, dtype=np.int64) * 7, names, tmp_path / "x.png")
    width, height = Image.open(tmp_path / "x.png").size
    assert 400 < width < 1300 and 400 < height < 1300


def test_dark_cells_are_where_the_counts_are(tmp_path: Path) -> None:
    names = tuple("abcd")
    draw_confusion(np.eye(4, dtype=np.int64) * 50, names, tmp_path / "diagonal.png")
    draw_confusion(np.full((4, 4), 50, dtype=np.int64), names, tmp_path / "full.png")
    draw_confusion(np.zeros((4, 4), dtype=np.int64), names, tmp_path / "empty.png")
    empty, diagonal, full = (_dark(tmp_path / f"{name}.png") for name in ("empty", "diagonal", "full"))
    assert empty < diagonal < full
    assert (full - empty) / (diagonal - empty) == pytest.approx(4, rel=0.15), "a quarter of the cells"


def test_rows_are_true_classes(tmp_path: Path) -> None:
    matrix = np.zeros((4, 4), dtype=np.int64)
    matrix[0, 3] = 50  # true class a, predicted d: the top right corner
    draw_confusion(matrix, tuple("abcd"), tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("L"), dtype=float)
    # without the bar at the right, whose lower half is pale
    blue = np.argwhere(pixels[: pixels.shape[0] // 2, : int(pixels.shape[1] * 0.83)] < 90)
    row, column = np.median(blue, axis=0)
    assert row < pixels.shape[0] / 3 and column > pixels.shape[1] / 2
