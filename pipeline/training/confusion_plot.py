"""The confusion matrix as a picture. Drawn with Pillow: matplotlib needs as long for it as a tiny run trains."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.paths import write_atomically

Matrix = npt.NDArray[np.int64]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FEW = 20  # classes up to which names and counts are legible
_PALE, _DARK = np.array([247.0, 251.0, 255.0]), np.array([8.0, 48.0, 107.0])
_MARGIN, _BAR, _SIDE = 16, 70, 400


def draw_confusion(matrix: Matrix, names: tuple[str, ...], path: Path) -> None:
    """Draws a confusion matrix; class names and counts where they are legible.

    Args:
        matrix: numbers of test images, shape (classes, classes); rows are true classes, columns predictions.
        names: class names by label.
        path: PNG file to write.

    Raises:
        OSError: the file cannot be written.
    """
    few = len(names) <= FEW
    small, normal, large = (ImageFont.load_default(size) for size in (11, 13, 15))
    shown = tuple(name if len(name) <= 16 else f"{name[:15]}…" for name in names)
    cell = max(1, _SIDE // len(names))
    side = cell * len(names)
    label = int(max(normal.getlength(name) for name in shown)) + 8 if few else 0
    left, top = _MARGIN + 22 + label, _MARGIN + 28
    picture = Image.new("RGB", (left + side + _BAR + _MARGIN, top + side + label + 22 + _MARGIN), "white")
    picture.paste(_heat(matrix).resize((side, side), Image.Resampling.NEAREST), (left, top))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left - 1, top - 1, left + side, top + side), outline="black")
    pen.text((left + side / 2, _MARGIN), "Confusion matrix (test)", "black", large, anchor="mt")
    pen.text((left + side / 2, top + side + label + 10), "predicted class", "black", normal, anchor="mt")
    _sideways(picture, "true class", (_MARGIN, top + side // 2), normal, centred=True)
    if few:
        _counts(pen, matrix, (left, top, cell), small)
        for label_index, name in enumerate(shown):
            middle = label_index * cell + cell // 2
            pen.text((left - 6, top + middle), name, "black", normal, anchor="rm")
            if label > cell:
                _sideways(picture, name, (left + middle - 7, top + side + 4), normal)
            else:
                pen.text((left + middle, top + side + 6), name, "black", normal, anchor="mt")
    _bar(picture, pen, (left + side + 16, top, side), int(matrix.max(initial=0)), small)
    memory = io.BytesIO()
    picture.save(memory, "png")
    write_atomically(path, memory.getvalue())


def _heat(matrix: Matrix) -> Image.Image:
    """One pixel per cell, from pale for 0 to dark for the largest count."""
    share = (matrix / max(int(matrix.max(initial=0)), 1))[..., None]
    return Image.fromarray((_PALE + share * (_DARK - _PALE)).round().astype(np.uint8))


def _counts(pen: ImageDraw.ImageDraw, matrix: Matrix, box: tuple[int, int, int], font: Font) -> None:
    """Writes the counts into the cells; `box` is the picture's left and top edge and the side of a cell, px."""
    left, top, cell = box
    half = matrix.max(initial=0) / 2
    for row, column in zip(*matrix.nonzero(), strict=True):
        count = matrix[row, column]
        middle = (left + column * cell + cell / 2, top + row * cell + cell / 2)
        pen.text(middle, str(count), "white" if count > half else "black", font, anchor="mm")


def _bar(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int],
    largest: int,
    font: Font,
) -> None:
    """Draws the scale, test images per cell; `box` is its left and top edge and its height, px."""
    left, top, side = box
    column: Matrix = np.arange(side, 0, -1)[:, None]
    picture.paste(_heat(column).resize((14, side), Image.Resampling.NEAREST), (left, top))
    pen.text((left + 18, top), str(largest), "black", font, anchor="lt")
    pen.text((left + 18, top + side), "0", "black", font, anchor="lb")
    _sideways(picture, "test images", (left + 22, top + side // 2), font, centred=True)


def _sideways(picture: Image.Image, text: str, corner: tuple[int, int], font: Font, *, centred: bool = False) -> None:
    """Writes text that reads upwards; `corner` is its left edge and its top (or its middle), px."""
    box = font.getbbox(text)
    paper = Image.new("RGB", (int(box[2]) + 1, int(box[3]) + 3), "white")
    ImageDraw.Draw(paper).text((0, 0), text, "black", font)
    turned = paper.rotate(90, expand=True)
    left, top = corner
    picture.paste(turned, (left, top - turned.height // 2 if centred else top))
