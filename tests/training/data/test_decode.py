"""Decoding: every kind of image becomes RGB."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from pipeline.errors import InputError
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


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".gif", ".mpo"])
def test_formats_of_image_folders(ending: str, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((16, 16))
    kind = {".jfif": "JPEG", ".mpo": "MPO"}.get(ending)
    image.convert("RGB" if ending == ".ppm" else "L").save(
        tmp_path / "image", kind or Image.registered_extensions()[ending]
    )
    (tmp_path / "image").rename(path := tmp_path / f"image{ending}")
    assert decode.decode(path).shape == (3, 16, 16) and decode.header_size(path) == (16, 16)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("read", [decode.decode, decode.header_size])
def test_no_other_program_reads_an_image(read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "image.png").write_bytes(POSTSCRIPT)
    called: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: called.append(given))
    with pytest.raises(InputError, match=r"image.png' cannot be decoded \(not an image: starts with '%!PS-Adobe-3'\)"):
        read(tmp_path / "image.png")
    assert called == []


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "DDS", "SGI", "IM", "PDF", "ICNS"])
def test_formats_that_image_folders_do_not_have(kind: str, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").resize((32, 32)).save(tmp_path / "image.png", kind)
    with pytest.raises(InputError, match=r"none of JPEG|not an image: starts with"):
        decode.decode(tmp_path / "image.png")


@pytest.mark.parametrize("side", [9460, 13304, 50_000])
@pytest.mark.parametrize("read", [decode.decode, decode.header_size])
def test_an_image_of_absurd_size_is_refused_by_its_header(read: Any, side: int, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")
    with pytest.raises(InputError, match=r"cannot be decoded \(.*pixels") as caught:
        read(tmp_path / "image.png")
    assert "\n" not in str(caught.value)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_fifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda _path: None])
@pytest.mark.parametrize("read", [decode.decode, decode.header_size])
def test_what_is_no_file_is_one_line_at_once(read: Any, make: Any, tmp_path: Path) -> None:
    make(tmp_path / "image.png")
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        read(tmp_path / "image.png")
    assert "\n" not in str(caught.value)
