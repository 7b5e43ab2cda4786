"""Decoding of image files, the same for preparation and for the loader's workers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from pipeline.errors import InputError


def decode(path: Path) -> torch.Tensor:
    """Decodes one image file to RGB, uint8, shape (3, height, width).

    JPEG and PNG go through torchvision's decoder, the other formats through Pillow. As in torchvision's
    `ImageFolder`, an orientation tag is not applied and an alpha channel is dropped.

    Raises:
        InputError: the file cannot be read, is truncated, or is no image.
    """
    try:
        if path.suffix.lower() in (".bmp", ".webp"):
            return _decode_pillow(path)
        image: torch.Tensor = decode_image(str(path), mode=ImageReadMode.RGB)
    except Exception as error:
        raise _unreadable(path, error) from None
    # PNG files of 16 bits a channel come as uint16
    return image if image.dtype == torch.uint8 else (image.to(torch.int32) >> 8).to(torch.uint8)


def header_size(path: Path) -> tuple[int, int]:
    """Reads (height, width) from an image file's header without decoding it.

    Raises:
        InputError: the file cannot be read, is no image, or claims an absurd number of pixels.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise _unreadable(path, error) from None


def _decode_pillow(path: Path) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _unreadable(path: Path, error: Exception) -> InputError:
    lines = str(error).strip().splitlines()
    cause = lines[0][:200] if lines else type(error).__name__
    return InputError(
        f"dataset: {str(path)!r} cannot be decoded ({cause}); allowed: readable, complete images"
    )
