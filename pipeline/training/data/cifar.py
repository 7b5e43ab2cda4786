"""CIFAR-10 and CIFAR-100 from their original archives: checksum first, then a reader that trusts nothing.

Names, addresses and MD5 sums are torchvision's. The archive is read as a stream and never unpacked, so
nothing in it can land on the disk; its members are still held to what an honest archive has.
"""

from __future__ import annotations

import os
import tarfile
import urllib.request
from hashlib import md5
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision.datasets import CIFAR10, CIFAR100

from pipeline.design import catalog
from pipeline.errors import InputError, OutsideError
from pipeline.training.data.array_files import Built, ReportProgress, file_digest, write_arrays
from pipeline.training.data.restricted_pickle import load_restricted

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
    files = read_members(archive, kind)
    names = _class_names(dataset, kind, archive, files)
    values: dict[str, npt.NDArray[Any]] = {}
    for split, listed in (("train", kind.train_list), ("test", kind.test_list)):
        parts = [_read_batch(archive, name, files[name], len(names)) for name, _md5 in listed]
        values[f"{split}_images"] = np.concatenate([images for images, _labels in parts])
        values[f"{split}_labels"] = np.concatenate([labels for _images, labels in parts])
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
    found = file_digest(archive, "md5")
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
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, target.open("wb") as file:
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


def read_members(archive: Path, kind: type[CIFAR10]) -> dict[str, bytes]:
    """Reads the listed files of an archive into memory, each checked against its MD5.

    Returns:
        File name -> content.

    Raises:
        InputError: the archive is damaged, holds a link, a device or a path out of its folder, or a listed
            file is missing or has another MD5.
    """
    expected = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    wanted = {f"{kind.base_folder}/{name}": name for name in expected}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _check_member(archive, member)
                name = wanted.get(str(PurePosixPath(member.name)))
                if name is not None and member.isfile():
                    files[name] = _read_member(archive, tar, member)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"dataset: {str(archive)!r} is no readable archive ({_cause(error)})") from None
    for name, known in expected.items():
        if name not in files:
            raise InputError(f"dataset: {str(archive)!r} lacks {kind.base_folder}/{name}")
        found = md5(files[name], usedforsecurity=False).hexdigest()
        if found != known:
            raise InputError(f"dataset: {name} in {str(archive)!r} has MD5 {found}; allowed: {known}")
    return files


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    problem = ""
    if not (member.isfile() or member.isdir()):
        problem = "a link or a device"
    elif path.is_absolute() or ".." in path.parts:
        problem = "outside its folder"
    elif member.size > _MAX_MEMBER:
        problem = f"larger than {_MAX_MEMBER} bytes"
    if problem:
        raise InputError(f"dataset: {str(archive)!r} holds {member.name!r}: {problem}; allowed: plain files")


def _read_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise InputError(f"dataset: {str(archive)!r}: {member.name!r} cannot be read")
    with file:
        return file.read()


def _read_batch(
    archive: Path, name: str, content: bytes, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Turns one pickled batch into (uint8 (n, 32, 32, 3), int64 (n,))."""
    where = f"{name} in {str(archive)!r}"
    batch = load_restricted(content, where)
    data = batch.get("data")
    labels = batch.get("labels", batch.get("fine_labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise InputError(f"dataset: {where} has no uint8 images of 3 x 32 x 32")
    if not isinstance(labels, list) or len(labels) != len(data) or not _in_range(labels, classes):
        raise InputError(f"dataset: {where} has no label from 0 to {classes - 1} for every image")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, dtype=np.int64)


def _in_range(labels: list[Any], classes: int) -> bool:
    return all(isinstance(label, (int, np.integer)) and 0 <= label < classes for label in labels)


def _class_names(dataset: str, kind: type[CIFAR10], archive: Path, files: dict[str, bytes]) -> tuple[str, ...]:
    where = f"{kind.meta['filename']} in {str(archive)!r}"
    names = load_restricted(files[kind.meta["filename"]], where).get(kind.meta["key"])
    classes = catalog.DATASETS[dataset].classes
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise InputError(f"dataset: {where} has no list of {classes} class names")
    return tuple(names)
