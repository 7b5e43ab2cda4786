"""Prepared data sets: uint8 arrays on disk, built once, checked, and memory-mapped by every run.

A store is a folder `stores/KEY` of the data directory: four `.npy` files and `meta.json`, which lists shape,
type, size and SHA-256 of each. It is built in a temporary folder and renamed into place, so a folder under
its final name is always whole.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.design import catalog
from pipeline.design.imagefolder import FolderListing, scan_folder
from pipeline.design.readable import leave_out_unreadable
from pipeline.design.spec import RunSpec, content_digest
from pipeline.errors import OutsideError
from pipeline.training.data import array_files, cifar, digits, imagefolder, split
from pipeline.training.data.array_files import Built, ReportProgress
from pipeline.training.data.split import Indices, Labels

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
        rows: (of the training part, of the test part) rows whose images are stored, sorted, where a run needs no
            others; the labels are those of all. None where all are stored.
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
    rows: tuple[Indices, Indices] | None = None

    @property
    def held_out(self) -> int:
        """How many of the training part, the last ones, are a validation part of its own."""
        return 0 if self.listing is None else self.listing.held_out

    def stored(self, part: str, rows: Indices) -> tuple[npt.NDArray[np.uint8], Labels, Indices]:
        """Finds images in the store.

        Args:
            part: `train` or `test`.
            rows: of the part, sorted.

        Returns:
            (all stored images of the part, their labels, where the wanted ones are among them).
        """
        images, labels, kept = (
            (self.train_images, self.train_labels, self.rows and self.rows[0])
            if part == "train"
            else (self.test_images, self.test_labels, self.rows and self.rows[1])
        )
        if kept is None:
            return images, labels, rows
        return images, labels[kept], np.searchsorted(kept, rows)


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
    def held_out(self) -> int:
        """How many of the training part, the last ones, are a validation part of its own."""
        return self.listing.held_out

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
    resize: str = "crop",
    skip_unreadable: int = 0,
    run: RunSpec | None = None,
    listing: FolderListing | None = None,
    download: bool = True,
    check: bool = False,
    report: ReportProgress | None = None,
) -> ImageStore | FolderSource:
    """Opens a data set, building its store first where there is none. Safe to call in several processes.

    Args:
        dataset: name of the catalog, or `imagefolder:DIR`.
        data_dir: where archives and stores are kept; created if missing.
        image_size: side to which folders of mixed sizes are resized; the other sets stay at native size.
        resize: how they are made squares of, as `Recipe.resize`.
        skip_unreadable: images of a folder that may be left out because they cannot be decoded.
        run: whose images of a folder are enough, where its recipe sets a maximum; None for all.
        listing: a folder's files, less those to leave out, where they were listed just now; None to list them.
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
            if listing is None:
                listing = _scan(dataset)
                listing.know_digest(tell)
                listing = leave_out_unreadable(listing, skip_unreadable, tell)
            return _FolderStores(dataset, data_dir / "stores", listing, image_size, resize).prepare(run, check, tell)
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


def prepare_run(
    spec: RunSpec,
    data_dir: Path,
    *,
    listing: FolderListing | None = None,
    check: bool = False,
    report: ReportProgress | None = None,
) -> ImageStore | FolderSource:
    """Opens the data set of a run as `prepare_dataset` does, with the images that it needs at least.

    Args:
        spec: the run.
        data_dir: see `prepare_dataset`.
        listing: likewise.
        check: likewise.
        report: likewise.

    Raises:
        InputError, OutsideError: see `prepare_dataset`.
    """
    recipe = spec.recipe
    return prepare_dataset(
        spec.dataset,
        data_dir,
        image_size=recipe.image_size,
        resize=recipe.resize,
        skip_unreadable=recipe.skip_unreadable,
        run=spec,
        listing=listing,
        check=check,
        report=report,
    )


def verify_dataset(dataset: str, data_dir: Path, skip_unreadable: int = 0) -> list[str]:
    """Compares a prepared data set with the checksums written when it was built.

    Args:
        dataset: name of the catalog, or `imagefolder:DIR`.
        data_dir: where stores are kept.
        skip_unreadable: images of a folder that were to be left out because they cannot be decoded, at most.

    Returns:
        One line per problem; empty when all is well.

    Raises:
        InputError: unknown name, or an image folder that is no longer one.
    """
    catalog.dataset(dataset)
    stores = data_dir / "stores"
    problems: list[str] = []
    if dataset.startswith(catalog.IMAGEFOLDER):
        listing = leave_out_unreadable(_scan(dataset), skip_unreadable)
        places = sorted(stores.glob(f"imagefolder-{listing.digest}-*-v{STORE_VERSION}"))
    else:
        places = [place for place in [stores / f"{dataset}-v{STORE_VERSION}"] if place.is_dir()]
        problems += cifar.verify_archive(dataset, data_dir)
    if not places:
        return [*problems, f"not prepared, or changed since (run: ablate data prepare {dataset})"]
    for place in places:
        problems += array_files.verify_arrays(place)
    return problems


@dataclass(frozen=True)
class _FolderStores:
    """The stores that one image folder may have: of all its images, and of those that single runs need.

    Attributes:
        dataset: name of the data set.
        stores: folder of all stores.
        listing: the folder's files.
        image_size: what mixed sizes are resized to, px.
        resize: how, as `Recipe.resize`.
    """

    dataset: str
    stores: Path
    listing: FolderListing
    image_size: int
    resize: str

    def prepare(self, run: RunSpec | None, check: bool, report: ReportProgress) -> ImageStore | FolderSource:
        """See `prepare_dataset`."""
        part = self._needed(run)
        lock = self.stores / f"imagefolder-{self.listing.digest}"
        if check:
            _drop_damaged([*self._places(None).values(), *self._places(part).values()], lock, report)
        found = self._open(part)
        if found is None:
            with array_files.locked(lock, report):
                # another process may have built it while this one waited
                found = self._open(part)
                if found is None:
                    if part is not None and self._exceeds(part):
                        part = None
                    self._build(part, report)
                    found = self._open(part)
        if found is None:
            raise OutsideError(
                f"data directory {str(self.stores.parent)!r}: the store just written cannot be read back"
            )
        return found

    def _needed(self, run: RunSpec | None) -> split.RunPart | None:
        """The images of a run; None for all of the folder."""
        if run is None or (run.recipe.max_train_samples is None and run.recipe.max_test_samples is None):
            return None
        train, test = (np.asarray(part.labels, dtype=np.int64) for part in (self.listing.train, self.listing.test))
        part = split.part_of(run, train, test, self.listing.held_out)
        return part if len(part.seen) + len(part.test) < len(train) + len(test) else None

    def _places(self, part: split.RunPart | None) -> dict[str, Path]:
        """Form -> the store's folder: the form depends on the images, so each is looked for."""
        side = f"{self.image_size}px" + ("" if self.resize == "crop" else f"-{self.resize}")
        suffixes = {"native": "native", "resized": side, "files": f"{side}-files"}
        rows = "" if part is None else "-part-" + content_digest([part.seen.tolist(), part.test.tolist()])
        head = f"imagefolder-{self.listing.digest}"
        return {form: self.stores / f"{head}-{text}{rows}-v{STORE_VERSION}" for form, text in suffixes.items()}

    def _open(self, part: split.RunPart | None) -> ImageStore | FolderSource | None:
        """Opens what serves a run: a store of all images, else one of its own."""
        for wanted in (None, part) if part is not None else (None,):
            places = self._places(wanted)
            if array_files.read_meta(places["files"]) is not None:
                return FolderSource(self.dataset, self.listing.classes, self.listing)
            for form in ("native", "resized"):
                store = _open(self.dataset, places[form], self.listing)
                if store is None:
                    continue
                if wanted is None:
                    return store
                train, test = (np.asarray(p.labels, dtype=np.int64) for p in (self.listing.train, self.listing.test))
                return replace(store, train_labels=train, test_labels=test, rows=(wanted.seen, wanted.test))
        return None

    def _exceeds(self, part: split.RunPart) -> bool:
        """Whether the stores of single runs hold as many images as the folder has: then one of all is cheaper."""
        ready = 0
        for place in self.stores.glob(f"imagefolder-{self.listing.digest}-*-part-*-v{STORE_VERSION}"):
            files = (array_files.read_meta(place) or {"files": {}})["files"]
            ready += sum(files[name]["shape"][0] for name in ("train_labels", "test_labels") if files)
        return ready + len(part.seen) + len(part.test) > len(self.listing.train) + len(self.listing.test)

    def _is_native(self, side: int, report: ReportProgress) -> bool:
        """Whether the folder's images are squares of `side` px: another run's store tells, else the files do."""
        stores = f"imagefolder-{self.listing.digest}"
        if any(self.stores.glob(f"{stores}-native-part-*-v{STORE_VERSION}")):
            return True
        if any(self.stores.glob(f"{stores}-*px*-part-*-v{STORE_VERSION}")):
            return False
        return imagefolder.all_of_size(self.listing, side, report)

    def _build(self, part: split.RunPart | None, report: ReportProgress) -> None:
        forms = imagefolder.forms(self.listing, self.image_size, self.resize)
        listing = self.listing
        if part is not None:
            listing = listing.only(part.seen.tolist(), part.test.tolist())
            if forms[0].kind == "native" and not self._is_native(forms[0].side, report):
                forms = forms[1:]
        for form in forms:
            with suppress(imagefolder.MixedSizesError):
                place = self._places(part)[form.kind]
                array_files.build_arrays(place, partial(imagefolder.build_image_folder, listing, form, report=report))
                break


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
