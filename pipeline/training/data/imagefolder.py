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

from pipeline.design.imagefolder import FolderListing, SplitFiles
from pipeline.training.data.array_files import Built, ReportProgress, write_array
from pipeline.training.data.decode import decode, header_size

# no store above this many bytes: memory maps of that size would push everything else out of memory
MAX_STORE_BYTES = 4 << 30
_CHUNK = 256


@dataclass(frozen=True)
class Form:
    """How a folder is stored.

    Attributes:
        kind: `native` and `resized` are arrays, `files` is the folder as it is.
        side: width and height of the arrays' images, px.
    """

    kind: Literal["native", "resized", "files"]
    side: int


class MixedSizesError(Exception):
    """An image is not of the size that the form `native` assumes."""


def forms(listing: FolderListing, image_size: int) -> list[Form]:
    """The forms to try in turn: native if the first image is a square and all would fit; resized or files.

    That all images are of the first one's size shows only when they are decoded; reading all headers first
    would nearly double the time.

    Raises:
        InputError: the first file is no image.
    """
    count = len(listing.train.names) + len(listing.test.names)
    height, width = header_size(listing.root / listing.train.names[0])
    other = Form("resized" if _fits(count, image_size) else "files", image_size)
    return [Form("native", height), other] if height == width and _fits(count, height) else [other]


def _fits(count: int, side: int) -> bool:
    return count * side * side * 3 <= MAX_STORE_BYTES


def _report_decoded(report: ReportProgress, before: int, total: int, done: int) -> None:
    report("decoding images", before + done, total)


def build_image_folder(listing: FolderListing, form: Form, work: Path, report: ReportProgress) -> Built:
    """Decodes every image of a folder; writes the arrays into `work` unless the form is `files`.

    Args:
        listing: the folder's files.
        form: how they are stored.
        work: folder to write into.
        report: called with (what is done, images done, images in all).

    Raises:
        InputError: an image cannot be decoded; names the file.
        MixedSizesError: the form is `native` and the images are not all of that size.
    """
    files: dict[str, dict[str, Any]] = {}
    total = len(listing.train.names) + len(listing.test.names)
    done = 0
    for split, listed in (("train", listing.train), ("test", listing.test)):
        chunks = _decoded(listing.root, listed, form, partial(_report_decoded, report, done, total))
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
        if form.kind == "native" and image.shape[-2:] != (form.side, form.side):
            raise MixedSizesError
        fitted = fit_image(image, form.side, InterpolationMode.BICUBIC)
        return np.asarray(fitted.permute(1, 2, 0))

    with _threads() as pool:
        for start in range(0, len(listed.names), _CHUNK):
            images = list(pool.map(read, listed.names[start : start + _CHUNK]))
            yield np.stack([image for image in images if image is not None] or [np.empty(0, np.uint8)])
            tell(start + len(images))


def fit_image(image: torch.Tensor, side: int, interpolation: InterpolationMode) -> torch.Tensor:
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
