"""Decoding of image files, the same for preparation and for the loader's workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pipeline.errors import InputError
from pipeline.files import reading

# Pillow picks a format by a file's first bytes, whatever it is called, and some formats start other programs (EPS:
# Ghostscript): only those that image folders have are read.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB: where Pillow warns, which refuses twice as many only
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # we refuse


def decode(path: Path) -> torch.Tensor:
    """Decodes one image file to RGB, uint8, shape (3, height, width), strides of (height, width, 3).

    With Pillow, like torchvision's `ImageFolder` (torchvision's own decoders are deprecated since 0.29). As
    there, an orientation tag is not applied and an alpha channel is dropped.

    Raises:
        InputError: the file cannot be read, is truncated, is no image, or has more than `MAX_PIXELS`.
    """
    try:
        with _opened(path) as image:
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
        with _opened(path) as image:
            return image.height, image.width
    except Exception as error:  # see `decode`; decompression bombs raise here too
        raise _unreadable(path, error) from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with reading(path) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        yield image


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
    if isinstance(error, UnidentifiedImageError):
        cause = f"none of {', '.join(FORMATS)}"
    else:
        # some messages repeat the path
        cause = " ".join(str(error).replace(repr(str(path)), "the file").split())[:200] or type(error).__name__
    return InputError(f"dataset: {str(path)!r} cannot be decoded ({cause}); allowed: complete image files")
