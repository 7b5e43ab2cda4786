"""Decoding of image files, the same for preparation and for the loader's workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.design.readable import cause_of, opened, unreadable
from pipeline.errors import InputError


class UnreadableImageError(InputError):
    """An image that cannot be decoded.

    Args:
        path: the image.
        error: what Pillow raised.

    Attributes:
        cause: why, in a few words.
    """

    def __init__(self, path: Path, error: Exception) -> None:
        self.cause = cause_of(path, error)
        super().__init__(str(unreadable(path.parent, {path.name: self.cause}, 1)))


def decode(path: Path) -> torch.Tensor:
    """Decodes one image file to RGB, uint8, shape (3, height, width), strides of (height, width, 3).

    With Pillow, like torchvision's `ImageFolder` (torchvision's own decoders are deprecated since 0.29). As
    there, an orientation tag is not applied and an alpha channel is dropped.

    Raises:
        UnreadableImageError: the file cannot be read, is truncated, is no image, or has more than
            `readable.MAX_PIXELS`.
    """
    try:
        with opened(path) as image:
            pixels = _rgb(image)
    except Exception as error:  # decoders raise every kind of error on hostile bytes
        raise UnreadableImageError(path, error) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def header_size(path: Path) -> tuple[int, int]:
    """Reads (height, width) from an image file's header without decoding it.

    Raises:
        UnreadableImageError: the file cannot be read, is no image, or claims an absurd number of pixels.
    """
    try:
        with opened(path) as image:
            return image.height, image.width
    except Exception as error:  # see `decode`; decompression bombs raise here too
        raise UnreadableImageError(path, error) from None


def _rgb(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's conversion would clip at 255 instead of scaling
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        # the direct way to RGB warns
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
