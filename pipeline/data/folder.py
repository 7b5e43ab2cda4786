"""Preparation of image folders: every image is decoded once, into a store where it fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from pipeline.data.arrays import Built, Report, write_array
from pipeline.data.images import decode, header_size
from pipeline.data.listing import FolderListing, SplitFiles

# no store above this many bytes: memory maps of that size would push everything else out of memory
MAX_STORE_BYTES = 4 << 30
_CHUNK = 256


@dataclass(frozen=True)
class Form:
    """How a folder is stored: `native` and `resized` as arrays of `side` px, `files` as it is."""

    kind: Literal["native", "resized", "files"]
    side: int


def choose_form(listing: FolderListing, image_size: int, report: Report) -> Form:
    """Reads all headers and chooses the form: native when all images are squares of one size, and it fits.

    Raises:
        InputError: a file is no image.
    """
    files = [listing.root / name for split in (listing.train, listing.test) for name in split.names]
    sizes: set[tuple[int, int]] = set()
    for start in range(0, len(files), _CHUNK):
        # no threads: this is Python under the interpreter lock
        sizes.update(header_size(file) for file in files[start : start + _CHUNK])
        report("reading image headers", min(start + _CHUNK, len(files)), len(files))
    height, width = next(iter(sizes))
    if len(sizes) == 1 and height == width and _fits(len(files), height):
        return Form("native", height)
    return Form("resized" if _fits(len(files), image_size) else "files", image_size)


def _tell(report: Report, before: int, total: int, done: int) -> None:
    report("decoding images", before + done, total)


def _fits(count: int, side: int) -> bool:
    return count * side * side * 3 <= MAX_STORE_BYTES


def build(listing: FolderListing, form: Form, work: Path, report: Report) -> Built:
    """Decodes every image of a folder; writes the arrays into `work` unless the form is `files`.

    Raises:
        InputError: an image cannot be decoded; names the file.
    """
    files: dict[str, dict[str, Any]] = {}
    total = len(listing.train.names) + len(listing.test.names)
    done = 0
    for split, listed in (("train", listing.train), ("test", listing.test)):
        chunks = _decoded(listing.root, listed, form, partial(_tell, report, done, total))
        if form.kind == "files":
            for _chunk in chunks:
                pass
        else:
            shape = (len(listed.names), form.side, form.side, 3)
            labels = np.asarray(listed.labels, dtype=np.int64)
            files[f"{split}_images"] = write_array(work, f"{split}_images", shape, np.uint8, chunks)
            files[f"{split}_labels"] = write_array(work, f"{split}_labels", labels.shape, np.int64, [labels])
        done += len(listed.names)
    return Built(listing.classes, files, native=form.kind == "native")


def _decoded(
    root: Path, listed: SplitFiles, form: Form, tell: Callable[[int], None]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the images in order, in parts of uint8 (n, side, side, 3); empty parts for the form `files`."""

    def read(name: str) -> npt.NDArray[np.uint8] | None:
        image = decode(root / name)
        if form.kind == "files":
            return None
        fitted = fit(image, form.side, InterpolationMode.BICUBIC)
        return np.asarray(fitted.permute(1, 2, 0))

    with _threads() as pool:
        for start in range(0, len(listed.names), _CHUNK):
            images = list(pool.map(read, listed.names[start : start + _CHUNK]))
            yield np.stack([image for image in images if image is not None] or [np.empty(0, np.uint8)])
            tell(start + len(images))


def fit(image: torch.Tensor, side: int, interpolation: InterpolationMode) -> torch.Tensor:
    """Resizes the shorter side to `side` px, antialiased, and cuts out the central square.

    Args:
        image: (3, height, width), any type.
        side: px.
        interpolation: torchvision's mode.

    Returns:
        (3, side, side), same type; the image itself when it has that shape already.
    """
    if image.shape[-2:] == (side, side):
        return image
    resized: torch.Tensor = vision.resize(image, [side], interpolation=interpolation, antialias=True)
    square: torch.Tensor = vision.center_crop(resized, [side, side])
    return square


def _threads() -> ThreadPoolExecutor:
    # decoders release the interpreter lock; the cores this process may use, not those of the machine
    return ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))))
