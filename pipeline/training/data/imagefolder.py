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

from pipeline.design.image_files import SplitFiles
from pipeline.design.imagefolder import FolderListing
from pipeline.design.readable import unreadable
from pipeline.training.data.array_files import Built, ReportProgress, write_array
from pipeline.training.data.decode import UnreadableImageError, decode, header_size

# no store above this many bytes: memory maps of that size would push everything else out of memory
MAX_STORE_BYTES = 4 << 30
_CHUNK = 256


@dataclass(frozen=True)
class Form:
    """How a folder is stored.

    Attributes:
        kind: `native` and `resized` are arrays, `files` is the folder as it is.
        side: width and height of the arrays' images, px.
        resize: how `resized` makes them of the files', as `Recipe.resize`.
    """

    kind: Literal["native", "resized", "files"]
    side: int
    resize: str = "crop"


class MixedSizesError(Exception):
    """An image is not of the size that the form `native` assumes."""


def forms(listing: FolderListing, image_size: int, resize: str) -> list[Form]:
    """The forms to try in turn: native if the first image is a square and all would fit; resized or files.

    That all images are of the first one's size shows only when they are decoded; reading all headers first
    would nearly double the time. Where only some are decoded, `all_of_size` looks at the headers of the others: which
    form it is depends on the folder alone, or a cell's pixels would depend on what was decoded before it.

    Args:
        listing: all of the folder's files.
        image_size: what the arrays are resized to, px.
        resize: how, as `Recipe.resize`.
    """
    count = len(listing.train) + len(listing.test)
    other = Form("resized" if _fits(count, image_size) else "files", image_size, resize)
    try:
        height, width = header_size(listing.root / listing.train.names[0])
    except UnreadableImageError:  # is told of with all others that cannot be decoded
        return [other]
    return [Form("native", height), other] if height == width and _fits(count, height) else [other]


def all_of_size(listing: FolderListing, side: int, report: ReportProgress) -> bool:
    """Whether all images of a folder are squares of `side` px, by their headers; ends at the first that is not.

    Args:
        listing: all of the folder's files.
        side: px.
        report: called with (what is done, images done, images in all).
    """
    names = [*listing.train.names, *listing.test.names]

    def fits(name: str) -> bool:
        try:
            return header_size(listing.root / name) == (side, side)
        except UnreadableImageError:  # only what is used has to be readable
            return True

    with _threads() as pool:
        for start in range(0, len(names), _CHUNK):
            if not all(pool.map(fits, names[start : start + _CHUNK])):
                return False
            report("reading the sizes of images", start, len(names))
    return True


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
        InputError: images cannot be decoded; counts them, and names the first ones.
        MixedSizesError: the form is `native` and the images are not all of that size.
    """
    files: dict[str, dict[str, Any]] = {}
    total = len(listing.train) + len(listing.test)
    done = 0
    bad: dict[str, str] = {}
    for split, listed in (("train", listing.train), ("test", listing.test)):
        chunks = _decoded(listing.root, listed, form, bad, partial(_report_decoded, report, done, total))
        if form.kind == "files":
            for _chunk in chunks:
                pass
        else:
            shape = (len(listed.names), form.side, form.side, 3)
            labels = np.asarray(listed.labels, dtype=np.int64)
            files[f"{split}_images"] = write_array(work, f"{split}_images", shape, np.uint8, chunks)
            files[f"{split}_labels"] = write_array(work, f"{split}_labels", labels.shape, np.int64, [labels])
        done += len(listed)
    if bad:
        raise unreadable(listing.root, bad, total)
    return Built(listing.classes, files, native=form.kind == "native")


def _decoded(
    root: Path, listed: SplitFiles, form: Form, bad: dict[str, str], tell: Callable[[int], None]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the images in order, in parts of uint8 (n, side, side, 3); empty parts for the form `files`.

    An image that cannot be decoded is black, and in `bad` with the cause: the others are looked at all the same.
    """

    def read(name: str) -> npt.NDArray[np.uint8] | None:
        try:
            image = decode(root / name)
        except UnreadableImageError as error:
            bad[name] = error.cause
            image = torch.zeros(3, form.side, form.side, dtype=torch.uint8)
        if form.kind == "files":
            return None
        if form.kind == "native" and image.shape[-2:] != (form.side, form.side):
            raise MixedSizesError
        fitted = fit_image(image, form.side, InterpolationMode.BICUBIC, form.resize)
        return np.asarray(fitted.permute(1, 2, 0))

    with _threads() as pool:
        for start in range(0, len(listed.names), _CHUNK):
            images = list(pool.map(read, listed.names[start : start + _CHUNK]))
            yield np.stack([image for image in images if image is not None] or [np.empty(0, np.uint8)])
            tell(start + len(images))


def fit_image(image: torch.Tensor, side: int, interpolation: InterpolationMode, resize: str = "crop") -> torch.Tensor:
    """Makes a square of an image, antialiased: shorter side to `side` px and the middle of it, or both sides.

    Args:
        image: (3, height, width), any type.
        side: px.
        interpolation: torchvision's mode.
        resize: `crop` or `squash`, as `Recipe.resize`.

    Returns:
        (3, side, side), same type; the image itself when it has that shape already.
    """
    if image.shape[-2:] == (side, side):
        return image
    size = [side, side] if resize == "squash" else [side]
    resized: torch.Tensor = vision.resize(image, size, interpolation=interpolation, antialias=True)
    square: torch.Tensor = vision.center_crop(resized, [side, side])
    return square


def _threads() -> ThreadPoolExecutor:
    # decoders release the interpreter lock; the cores this process may use, not those of the machine
    return ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))))
