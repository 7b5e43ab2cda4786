"""Which images of a folder can be decoded, and why the others cannot. Pillow alone: no torch and no numpy here."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.design.imagefolder import FolderListing
from pipeline.errors import InputError
from pipeline.files import reading
from pipeline.paths import default_data_dir, write_atomically
from pipeline.progress import Tell, long_task
from pipeline.shown import printable

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Pillow picks a format by a file's first bytes, whatever it is called, and some formats start other programs (EPS:
# Ghostscript): only those that image folders have are read.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB: where Pillow warns, which refuses twice as many only
warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")  # we refuse
_SHOWN = 5  # images that a message names
_START = 12  # bytes of a file that are shown where it is no image
_CHUNK = 64


@contextmanager
def opened(path: Path) -> Iterator[Picture]:
    """Opens an image file with Pillow; what makes pixels of it is the caller's.

    Raises:
        ValueError: it has more than `MAX_PIXELS`.
        Exception: whatever Pillow's decoders raise on hostile bytes.
    """
    from PIL import Image

    with reading(path) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        yield image


def cause_of(path: Path, error: Exception) -> str:
    """Says in a few words why an image cannot be decoded.

    Args:
        path: the image.
        error: what opening or decoding it raised.
    """
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        with suppress(OSError), reading(path) as file:
            start = file.read(_START)
            if not start:
                return "empty"
            if start.isascii() and start.decode().isprintable():
                return f"not an image: starts with {start.decode()!r}"
            return f"none of {', '.join(FORMATS)}: starts with {start!r}"
        return "gone"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # some messages repeat the path
    text = " ".join(str(error).replace(repr(str(path)), "the file").split())[:200]
    # Pillow's messages for a file that ends too early, of its formats' decoders
    cut = (
        "truncated",
        "broken data stream",
        "unexpected end",
        "not enough image data",
        "failed to decode",
        "create decoder",
    )
    return "truncated or damaged" if any(word in text.lower() for word in cut) else text or type(error).__name__


def unreadable(root: Path, causes: Mapping[str, str], images: int, most: int = 0) -> InputError:
    """Builds the line that names the images that cannot be decoded.

    Args:
        root: folder that names are relative to.
        causes: name of each -> why.
        images: how many were tried.
        most: how many could have been left out.
    """
    named = [f"{printable(repr(str(root / name)))} ({printable(cause)})" for name, cause in sorted(causes.items())]
    allowed = f"allowed: complete image files, or --skip-unreadable {len(causes)} to leave "
    if len(named) == 1:
        return InputError(f"dataset: {named[0].replace(' (', ' cannot be decoded (', 1)}; {allowed}it out")
    more = ", .." if len(named) > _SHOWN else ""
    limit = f", more than --skip-unreadable {most}" if most else ""
    count = f"{len(named):,} of {images:,} images cannot be decoded{limit}"
    return InputError(f"dataset: {count}: {', '.join(named[:_SHOWN])}{more}; {allowed}them out")


def leave_out_unreadable(
    listing: FolderListing, most: int, report: Callable[[str, int, int], None] | None = None
) -> FolderListing:
    """Leaves the images out that cannot be decoded: all are decoded, once, and what was found is remembered.

    Args:
        listing: the folder's files.
        most: how many may be left out; with 0 nothing is looked at.
        report: called with (what is done, images, in all); None for standard error.

    Raises:
        InputError: there are more.
    """
    if not most:
        return listing
    total = len(listing.train) + len(listing.test)
    text = "looking for images that cannot be decoded"
    if report is None:
        with long_task(text, total) as tell:
            causes = _causes(listing, tell)
    else:
        tell_all = report
        causes = _causes(listing, lambda done: tell_all(text, done, total))
    if len(causes) > most:
        raise unreadable(listing.root, causes, total, most)
    return listing.without(causes) if causes else listing


def _causes(listing: FolderListing, tell: Tell) -> dict[str, str]:
    """Name of each image that cannot be decoded -> why."""
    import PIL

    place: Path | None = None
    with suppress(InputError):  # no home: every call looks anew
        place = default_data_dir() / "digests" / f"{listing.digest}-unreadable-{PIL.__version__}.json"
    found = _recall(place) if place else None
    if found is None:
        names = [*listing.train.names, *listing.test.names]
        chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
        found, done = {}, 0
        # decoders release the interpreter lock; what Pillow warns of (a camera's tags that are cut) spoils no pixel
        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            warnings.simplefilter("ignore")
            for chunk, causes in zip(chunks, pool.map(lambda part: _tried(listing.root, part), chunks), strict=True):
                found |= causes
                done += len(chunk)
                tell(done)
        if place:
            with suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(place, json.dumps(found))
    return found


def _recall(place: Path) -> dict[str, str] | None:
    try:
        with reading(place) as file:
            found = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and all(isinstance(cause, str) for cause in found.values())
    return found if whole else None


def _tried(root: Path, names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            with opened(root / name) as image:
                image.convert("RGB")
        except Exception as error:  # decoders raise every kind of error on hostile bytes
            found[name] = cause_of(root / name, error)
    return found
