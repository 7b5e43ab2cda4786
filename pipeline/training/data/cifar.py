"""CIFAR-10 and CIFAR-100 from their original archives: checksum first, then torchvision's reader.

Names, addresses and MD5 sums are torchvision's too. The batches are pickles, so a file is loaded only after its sum has
been found right: that of the archive here, those of its files by torchvision.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from pipeline.design import catalog
from pipeline.errors import InputError, OutsideError
from pipeline.files import reading, writing
from pipeline.training.data.array_files import Built, ReportProgress, file_digest, write_arrays

_SETS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
# the largest member of the real archives, CIFAR-100's `train`, has 155 MB
_MAX_MEMBER = 1 << 30


def build_cifar(dataset: str, data_dir: Path, work: Path, *, download: bool, report: ReportProgress) -> Built:
    """Reads a CIFAR archive and writes its arrays into `work`.

    Args:
        dataset: `cifar10` or `cifar100`.
        data_dir: where the archive is, or is downloaded to.
        work: folder for the arrays.
        download: whether a missing archive may be fetched.
        report: progress.

    Raises:
        InputError: the archive or a file in it is not the known one, or holds what it should not.
        OutsideError: the archive is missing and cannot be fetched.
    """
    kind = _SETS[dataset]
    archive = data_dir / kind.filename
    if not archive.exists():
        if not download:
            remedy = _remedy(kind, archive)
            raise OutsideError(f"{dataset}: not prepared and downloading is off; {remedy}")
        _download(dataset, kind, archive, work, report)
    report(f"checking {archive.name}", 0, 2)
    _check_archive(kind, archive)
    report(f"reading {archive.name}", 1, 2)
    names, values = _read_archive(dataset, archive, work)
    built = write_arrays(work, names, values)
    report(f"reading {archive.name}", 2, 2)
    return built


def verify_archive(dataset: str, data_dir: Path) -> list[str]:
    """Checks the MD5 of a CIFAR archive that is still in the data directory; one line per problem."""
    if dataset not in _SETS or not (archive := data_dir / _SETS[dataset].filename).exists():
        return []
    try:
        _check_archive(_SETS[dataset], archive)
    except InputError as error:
        return [str(error)]
    return []


def _check_archive(kind: type[CIFAR10], archive: Path) -> None:
    try:
        found = file_digest(archive, "md5")
    except OSError as error:
        raise InputError(f"dataset: {str(archive)!r} cannot be read ({_cause(error)})") from None
    if found != kind.tgz_md5:
        raise InputError(
            f"dataset: {str(archive)!r} has MD5 {found}; allowed: {kind.tgz_md5} (delete the file to have it "
            f"downloaded again)"
        )


def _download(dataset: str, kind: type[CIFAR10], archive: Path, work: Path, report: ReportProgress) -> None:
    """Fetches an archive into `work`, checks it, and renames it into place.

    Not torchvision's `download_url`: that one has no time limit, falls back from https to http, and leaves
    half a file under the final name.
    """
    place = _remedy(kind, archive)
    part = work / archive.name
    try:
        _fetch(kind.url, part, f"downloading {archive.name}", report)
    except (OSError, ValueError, EOFError, HTTPException) as error:
        raise OutsideError(f"{dataset}: cannot download ({_cause(error)}); {place}") from error
    found = file_digest(part, "md5")
    if found != kind.tgz_md5:
        raise OutsideError(
            f"{dataset}: what was downloaded has MD5 {found}, not {kind.tgz_md5} (a proxy or a broken "
            f"connection?); {place}"
        )
    part.replace(archive)


def _remedy(kind: type[CIFAR10], archive: Path) -> str:
    return f"put the archive at {str(archive)!r} (from {kind.url})"


def _fetch(url: str, target: Path, message: str, report: ReportProgress) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "ablate"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, writing(target) as file:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        report(message, done, total)
        while block := response.read(_CHUNK):
            file.write(block)
            done += len(block)
            report(message, done, max(total, done))
        if done < total:
            raise EOFError(f"connection closed after {done} of {total} bytes")
        file.flush()
        os.fsync(file.fileno())


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())[:200]


def _read_archive(dataset: str, archive: Path, work: Path) -> tuple[tuple[str, ...], dict[str, npt.NDArray[Any]]]:
    """Unpacks an archive for torchvision to read; what was unpacked is removed again, also after an error.

    Args:
        dataset: `cifar10` or `cifar100`.
        archive: file whose MD5 has been checked.
        work: folder to unpack in, which needs as much space as the arrays.

    Returns:
        (class names, array name -> array as in `ImageStore`).

    Raises:
        InputError: the archive or a file in it is not what it should be.
        OSError: the disk is full or cannot be written.
    """
    kind = _SETS[dataset]
    with TemporaryDirectory(dir=work) as folder:
        try:
            with reading(archive) as file, tarfile.open(fileobj=file) as tar:
                tar.extractall(folder, filter=_plain_member)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
            raise InputError(f"dataset: {str(archive)!r} is no readable archive ({_cause(error)})") from None
        try:
            parts = {split: kind(folder, train=split == "train") for split in ("train", "test")}
        except Exception as error:  # an absent file, a wrong sum, or whatever a pickle of another kind raises
            problem = _wrong_file(kind, Path(folder)) or _cause(error)
            raise InputError(f"dataset: {str(archive)!r} cannot be read ({problem})") from None
    names, classes = tuple(parts["train"].classes), catalog.DATASETS[dataset].classes
    values: dict[str, npt.NDArray[Any]] = {}
    for split, part in parts.items():
        labels = np.asarray(part.targets)
        if len(names) != classes or not _are_labelled(part.data, labels, classes):
            raise InputError(
                f"dataset: {str(archive)!r} is not uint8 images with a label of {classes} named classes each"
            )
        values[f"{split}_images"], values[f"{split}_labels"] = part.data, labels.astype(np.int64)
    return names, values


def _plain_member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Lets through what an honest archive has; the standard library's filter keeps it inside the folder."""
    if not (member.isfile() or member.isdir()):
        raise ValueError(f"{member.name!r} is a link or a device")
    if member.size > _MAX_MEMBER:
        raise ValueError(f"{member.name!r} is larger than {_MAX_MEMBER} bytes")
    return tarfile.data_filter(member, folder)


def _wrong_file(kind: type[CIFAR10], folder: Path) -> str:
    """The first file that is not the known one; empty when all are."""
    for name, known in [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]:
        path = folder / kind.base_folder / name
        if not check_integrity(path, known):
            return f"{name} is not the file of MD5 {known}" if path.exists() else f"it lacks {name}"
    return ""


def _are_labelled(images: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int) -> bool:
    """Whether these are images, (n, 32, 32, 3), with a whole number from 0 to `classes` - 1 for each."""
    whole = labels.dtype.kind in "iu" and labels.shape == (len(images),)
    return images.dtype == np.uint8 and whole and bool(((labels >= 0) & (labels < classes)).all())
