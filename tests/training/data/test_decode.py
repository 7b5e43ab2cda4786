"""Decoding: every kind of image becomes RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.training.data import decode


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".webp"])
def test_every_kind_of_image_becomes_rgb(mode: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{ending}"
    gray = Image.linear_gradient("L").resize((16, 16))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    else:
        image = gray.convert("RGB").convert(mode) if mode != "1" else gray.convert("1")
    try:
        image.save(path)
    except (OSError, ValueError):
        pytest.skip("the format has no such mode")
    decoded = decode.decode(path)
    assert decoded.shape == (3, 16, 16) and decoded.dtype == torch.uint8
    if mode in ("L", "I;16") and ending == ".png":
        assert np.array_equal(decoded[0].numpy(), np.asarray(gray)), "scaled, not clipped"


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((16, 16)).convert("P")
    image.save(tmp_path / "image.png", transparency=bytes([0, 128] * 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.decode(tmp_path / "image.png").shape == (3, 16, 16)
