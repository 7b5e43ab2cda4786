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


def _photo(path: Path, mode: str = "RGB", **settings: Any) -> Path:
    image = Image.new("RGB", (16, 8), (200, 30, 30))
    image.paste((30, 30, 200), (8, 0, 16, 8))
    (image.quantize(4) if mode == "P" else image.convert(mode)).save(path, **settings)
    return path


def _colours(path: Path) -> tuple[list[int], list[int]]:
    """Of the left half and the right half, to the nearest ten."""
    pixels = decode.decode(path)
    return tuple((pixels[:, 4, column].int() / 10).round().mul(10).int().tolist() for column in (3, 12))


RED, BLUE = [200, 30, 30], [30, 30, 200]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"),
        ("a.png", "RGBA"),
        ("a.png", "P"),
        ("a.webp", "RGB"),
        ("a.webp", "RGBA"),
        ("a.jpg", "CMYK"),
        ("wei\u00df \U0001f408 a b.JPG", "RGB"),
    ],
)
def test_colours_are_those_of_the_picture(name: str, mode: str, tmp_path: Path) -> None:
    # Pillow writes CMYK without the profile that a press has
    settings = {"lossless": True} if name.endswith("webp") else {"quality": 95, "subsampling": 0}
    found = _colours(_photo(tmp_path / name, mode, **(settings if not name.endswith("png") else {})))
    assert np.abs(np.array(found) - np.array((RED, BLUE))).max() <= 10


def test_a_camera_s_orientation_is_not_applied(tmp_path: Path) -> None:
    """As torchvision and timm read: pixels as they are stored. Applying it would make other data of the same files."""
    tag = Image.Exif()
    tag[0x0112] = 6  # turned by a quarter
    path = _photo(tmp_path / "a.jpg", exif=tag, quality=95, subsampling=0)
    assert decode.decode(path).shape == (3, 8, 16)
    assert np.abs(np.array(_colours(path)) - np.array((RED, BLUE))).max() <= 10


def test_what_is_behind_transparency_is_seen(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 8), (200, 30, 30, 0))
    image.save(tmp_path / "a.png")
    assert _colours(tmp_path / "a.png") == (RED, RED)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<html><body>gone</body></html>", "not an image: starts with '<html><body>'"),
        (bytes(range(200, 240)), r"none of JPEG, PNG, PPM, BMP, TIFF, WEBP, GIF: starts with b'"),
        (None, "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_the_cause_is_said(content: bytes | None, said: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    if content is None:
        Image.effect_noise((64, 64), 60).convert("RGB").save(path)
        content = path.read_bytes()[: len(path.read_bytes()) // 2]
    path.write_bytes(content)
    with pytest.raises(decode.UnreadableImageError, match=rf"a{ending}' cannot be decoded \({said}"):
        decode.decode(path)
