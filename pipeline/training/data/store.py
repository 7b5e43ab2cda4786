"""Prepared data sets: uint8 arrays on disk, built once, checked, and memory-mapped by every run.

A store is a folder `stores/KEY` of the data directory: four `.npy` files and `meta.json`, which lists shape,
type, size and SHA-256 of each. It is built in a temporary folder and renamed into place, so a folder under
its final name is always whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.design import catalog
from pipeline.design.imagefolder import FolderListing, scan_folder
from pipeline.errors import OutsideError
from pipeline.training.data import array_files, cifar, digits, imagefolder
from pipeline.training.data.array_files import Built, ReportProgress

# a change of how arrays are made must change this: prepared stores of another version are not used
STORE_VERSION = 1


@dataclass(frozen=True)
class ImageStore:
    """A prepared data set; all arrays are read-only memory maps.

    Attributes:
        name: the data set's name.
        class_names: names by label.
        train_images: uint8 (N, H, W, 3), RGB.
        train_labels: int64 (N,).
        test_images: uint8 (M, H, W, 3).
        test_labels: int64 (M,).
        digest: over the SHA-256 of all four arrays.
        native: the images are as they came; False for a folder of mixed sizes, resized at preparation.
        listing: the files behind an image folder's store, None for the others.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    digest: str
    native: bool = True
    listing: FolderListing | None = None


@dataclass(frozen=True)
class FolderSource:
    """An image folder too large for a store: its files are decoded by the loader's workers in every epoch.

    Attributes:
        name: the data set's name.
        class_names: names by label.
        listing: its files.
    """

    name: str
    class_names: tuple[str, ...]
    listing: FolderListing

    @property
    def digest(self) -> str:
        """Digest of names and contents."""
        return self.listing.digest

    @property
    def train_labels(self) -> npt.NDArray[np.int64]:
        """int64 (N,)."""
        return np.asarray(self.listing.train.labels, dtype=np.int64)

    @property
    def test_labels(self) -> npt.NDArray[np.int64]:
        """int64 (M,)."""
        return np.asarray(self.listing.test.labels, dtype=np.int64)


def prepare_dataset(
    dataset: str,
    data_dir: Path,
    *,
    image_size: int,
    download: bool = True,
    check: bool = False,
    report: ReportProgress | None = None,
) -> ImageStore | FolderSource:
    """Opens a data set, building its store first where there is none. Safe to call in several processes.

    Args:
        dataset: name of the catalog, or `imagefolder:DIR`.
        data_dir: where archives and stores are kept; created if missing.
        image_size: side to which folders of mixed sizes are resized; the other sets stay at native size.
        download: whether missing archives may be fetched.
        check: compare a store that is there with its SHA-256 (about a second for each gigabyte), and build it anew
            when its content has changed.
        report: called with (what is done, done, total) during long preparations.

    Raises:
        InputError: unknown name, a bad folder or image, an archive that is not what it should be.
        OutsideError: no network, disk full or read-only.
    """
    catalog.dataset(dataset)
    tell = report or (lambda _message, _done, _total: None)
    try:
        if dataset.startswith(catalog.IMAGEFOLDER):
            return _prepare_folder(dataset, data_dir, image_size, check, tell)
        place = data_dir / "stores" / f"{dataset}-v{STORE_VERSION}"
        if check:
            _drop_damaged([place], place, tell)
        store = _open(dataset, place, None)
        if store is None:
            with array_files.locked(place, tell):
                # another process may have built it while this one waited
                store = _open(dataset, place, None)
                if store is None:
                    array_files.build_arrays(place, lambda work: _build_fixed(dataset, data_dir, work, download, tell))
                    store = _open(dataset, place, None)
    except OSError as error:
        raise OutsideError(f"data directory {str(data_dir)!r}: {error.strerror or error}") from error
    if store is None:
        raise OutsideError(f"data directory {str(data_dir)!r}: the store just written cannot be read back")
    return store


def verify_dataset(dataset: str, data_dir: Path) -> list[str]:
    """Compares a prepared data set with the checksums written when it was built.

    Returns:
        One line per problem; empty when all is well.

    Raises:
        InputError: unknown name, or an image folder that is no longer one.
    """
    catalog.dataset(dataset)
    stores = data_dir / "stores"
    problems: list[str] = []
    if dataset.startswith(catalog.IMAGEFOLDER):
        listing = _scan(dataset)
        places = sorted(stores.glob(f"imagefolder-{listing.digest}-*-v{STORE_VERSION}"))
    else:
        places = [place for place in [stores / f"{dataset}-v{STORE_VERSION}"] if place.is_dir()]
        problems += cifar.verify_archive(dataset, data_dir)
    if not places:
        return [*problems, f"{dataset}: not prepared, or changed since (run: ablate data prepare {dataset})"]
    for place in places:
        problems += array_files.verify_arrays(place)
    return problems


def _prepare_folder(
    dataset: str, data_dir: Path, image_size: int, check: bool, report: ReportProgress
) -> ImageStore | FolderSource:
    listing = _scan(dataset)
    stores = data_dir / "stores"
    # the form depends on the images, so look for each that this folder may have been given
    suffixes = {"native": "native", "resized": f"{image_size}px", "files": f"{image_size}px-files"}
    places = {
        kind: stores / f"imagefolder-{listing.digest}-{suffix}-v{STORE_VERSION}" for kind, suffix in suffixes.items()
    }
    lock = stores / f"imagefolder-{listing.digest}"
    if check:
        _drop_damaged([*places.values()], lock, report)
    with _lock_unless_ready(dataset, [*places.values()], listing, lock, report) as found:
        if found is not None:
            return found
        for form in imagefolder.forms(listing, image_size):
            with suppress(imagefolder.MixedSizesError):
                array_files.build_arrays(
                    places[form.kind], partial(imagefolder.build_image_folder, listing, form, report=report)
                )
                break
        made = _open_any(dataset, [*places.values()], listing)
    if made is None:
        raise OutsideError(f"data directory {str(data_dir)!r}: the store just written cannot be read back")
    return made


def _drop_damaged(places: list[Path], lock: Path, report: ReportProgress) -> None:
    """Removes stores whose content is not what was written, so that they are built anew."""
    for place in places:
        if array_files.read_meta(place) is None or not array_files.verify_arrays(place):
            continue
        with array_files.locked(lock, report):
            # another process may have replaced it while this one waited
            if array_files.verify_arrays(place):
                report("checksum of a prepared data set is wrong, building it anew", 0, 1)
                array_files.discard(place)


@contextmanager
def _lock_unless_ready(
    dataset: str, places: list[Path], listing: FolderListing, lock: Path, report: ReportProgress
) -> Iterator[ImageStore | FolderSource | None]:
    found = _open_any(dataset, places, listing)
    if found is not None:
        yield found
        return
    with array_files.locked(lock, report):
        yield _open_any(dataset, places, listing)


def _open_any(dataset: str, places: list[Path], listing: FolderListing) -> ImageStore | FolderSource | None:
    for place in places:
        if place.name.endswith(f"-files-v{STORE_VERSION}") and array_files.read_meta(place) is not None:
            return FolderSource(dataset, listing.classes, listing)
        store = _open(dataset, place, listing)
        if store is not None:
            return store
    return None


def _open(dataset: str, place: Path, listing: FolderListing | None) -> ImageStore | None:
    """Opens the store at `place`; None when there is none or its files are not what its meta.json says."""
    opened = array_files.open_arrays(place)
    if opened is None:
        return None
    meta, maps = opened
    return ImageStore(
        dataset,
        tuple(meta["class_names"]),
        **maps,
        digest=meta["digest"],
        native=meta["native"],
        listing=listing,
    )


def _build_fixed(dataset: str, data_dir: Path, work: Path, download: bool, report: ReportProgress) -> Built:
    if catalog.DATASETS[dataset].embedded:
        return digits.build_digits(dataset, work)
    return cifar.build_cifar(dataset, data_dir, work, download=download, report=report)


def _scan(dataset: str) -> FolderListing:
    return scan_folder(Path(dataset.removeprefix(catalog.IMAGEFOLDER)), "dataset")
