"""Decoding of image files, the same for preparation and for the loader's workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.errors import InputError


def decode(path: Path) -> torch.Tensor:
    """Decodes one image file to RGB, uint8, shape (3, height, width), strides of (height, width, 3).

    With Pillow, like torchvision's `ImageFolder` (torchvision's own decoders are deprecated since 0.29). As
    there, an orientation tag is not applied and an alpha channel is dropped.

    Raises:
        InputError: the file cannot be read, is truncated, or is no image.
    """
    try:
        with Image.open(path) as image:
            pixels = _rgb(image)
    except Exception as error:  # decoders raise every kind of error on hostile bytes
        raise _unreadable(path, error) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def header_size(path: Path) -> tuple[int, int]:
    """Reads (height, width) from an image file's header without decoding it.

    Raises:
        InputError: the file cannot be read, is no image, or claims an absurd number of pixels.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # see `decode`; decompression bombs raise here too
        raise _unreadable(path, error) from None


def _rgb(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's conversion would clip at 255 instead of scaling
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        # the direct way to RGB warns
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _unreadable(path: Path, error: Exception) -> InputError:
    # Pillow's messages repeat the path
    cause = " ".join(str(error).replace(repr(str(path)), "the file").split())[:200] or type(error).__name__
    return InputError(f"dataset: {str(path)!r} cannot be decoded ({cause}); allowed: complete image files")
