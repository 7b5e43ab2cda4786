"""Folders of checked arrays on disk: written beside their final name, renamed to it, memory-mapped from it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.files import reading, writing
from pipeline.locks import open_lock
from pipeline.paths import umask, write_atomically

ReportProgress = Callable[[str, int, int], None]
NAMES = ("train_images", "train_labels", "test_images", "test_labels")
LOCK_SECONDS = 3600.0  # the longest that another process is waited for
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Built:
    """What a builder wrote into its work folder.

    Attributes:
        class_names: names by label.
        files: array name -> its entry in meta.json, as `write_array` returns it; empty for folders of files.
        native: whether the images are stored as they are, not resized.
    """

    class_names: tuple[str, ...]
    files: dict[str, dict[str, Any]]
    native: bool = True


@contextmanager
def locked(folder: Path, report: ReportProgress | None = None) -> Iterator[None]:
    """Holds `FOLDER.lock`, so that processes build one store one after another, not side by side.

    The kernel drops the lock when its holder dies; what that one left unfinished is then removed. Where there is no
    lock to be had (the file system has none, the file is another user's, or somebody has held it for `LOCK_SECONDS`)
    both build and both succeed: the rename decides.

    Args:
        folder: the store.
        report: told that another process is waited for.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.lock"
    with ExitStack() as held:
        try:
            lock = open_lock(path)
        except PermissionError:
            if not path.exists():
                raise
        else:
            held.callback(os.close, lock)
            if _held(lock, folder.name, report):
                for left in folder.parent.glob(f".{folder.name}-*"):
                    shutil.rmtree(left, ignore_errors=True)
        yield


def _held(lock: int, name: str, report: ReportProgress | None) -> bool:
    """Waits for a lock; whether it is ours now."""
    deadline = None
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if deadline is None:
                deadline = time.monotonic() + LOCK_SECONDS
                if report is not None:
                    report(f"waiting for another process that prepares {name}", 0, 1)
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        except OSError:
            return False
        else:
            return True


def build_arrays(folder: Path, builder: Callable[[Path], Built]) -> None:
    """Builds a store with `builder` in a temporary folder and moves it to `folder` in one step.

    Whatever is at `folder` is replaced: the caller has found it unusable.

    Args:
        folder: the store's folder; its parents are made.
        builder: writes the arrays into the folder that it is given.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        built = builder(work)
        sums = [built.files[name]["sha256"] for name in sorted(built.files)]
        meta = {**asdict(built), "digest": _digest(sums)}
        write_atomically(work / "meta.json", json.dumps(meta, indent=1), durable=True)  # the arrays' names as well
        _move(work, folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(work: Path, folder: Path) -> None:
    # mkdtemp makes folders private; a data directory may be shared by several people
    work.chmod(0o777 & ~umask())
    for _attempt in range(3):
        try:
            work.rename(folder)
            return
        except OSError:
            if not folder.exists():
                raise
        if open_arrays(folder) is not None:
            return  # another process was first, and its store is good
        discard(folder)
    raise OSError(f"cannot replace {folder}")


def discard(folder: Path) -> None:
    """Removes a store: it moves out of the way first, so that nobody sees half of it; open maps stay valid."""
    grave = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    with suppress(FileNotFoundError):
        folder.rename(grave / "old")
    shutil.rmtree(grave, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_array(
    work: Path, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunks: Iterable[npt.NDArray[Any]]
) -> dict[str, Any]:
    """Writes `NAME.npy` from consecutive parts along the first axis, and syncs it to disk.

    Plain writes rather than a memory map: a full disk then raises instead of killing the process (SIGBUS).

    Args:
        work: folder to write into.
        name: name of the array.
        shape: shape of the whole array.
        dtype: type of the array; parts of another type are converted.
        chunks: parts of the array, of `shape` but for their length.

    Returns:
        The file's entry for meta.json.

    Raises:
        ValueError: the parts do not add up to `shape`.
    """
    path = work / f"{name}.npy"
    digest = hashlib.sha256()
    kind = np.dtype(dtype)
    written = 0
    with writing(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        digest.update(path.read_bytes())
        for chunk in chunks:
            if chunk.shape[1:] != shape[1:]:
                raise ValueError(f"{name}: a part of shape {chunk.shape} in an array of shape {shape}")
            data = np.ascontiguousarray(chunk, dtype=kind).data
            file.write(data)
            digest.update(data)
            written += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if written != shape[0]:
        raise ValueError(f"{name}: {written} rows written, {shape[0]} expected")
    size = path.stat().st_size
    return {"sha256": digest.hexdigest(), "bytes": size, "shape": list(shape), "dtype": kind.name}


def write_arrays(work: Path, class_names: tuple[str, ...], values: dict[str, npt.NDArray[Any]]) -> Built:
    """Writes whole arrays; see `write_array`."""
    files = {name: write_array(work, name, value.shape, value.dtype, [value]) for name, value in values.items()}
    return Built(class_names, files)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """Reads a store's meta.json; None when there is no store or the file is not what `build_arrays` writes."""
    try:
        with reading(folder / "meta.json") as file:
            meta = json.loads(file.read())
        sums = [meta["files"][name]["sha256"] for name in sorted(meta["files"])]
        whole = (
            set(meta) == {"class_names", "files", "native", "digest"}
            and isinstance(meta["class_names"], list)
            and all(isinstance(name, str) for name in meta["class_names"])
            and isinstance(meta["native"], bool)
            and set(meta["files"]) in (set(), set(NAMES))
            and meta["digest"] == _digest(sums)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return meta if whole else None


def _digest(sums: Sequence[str]) -> str:
    """Identity of a store: digest over its files' SHA-256, in the order of their names."""
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:32]


def open_arrays(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Memory-maps a store's arrays, read-only, with the cheap checks: size, shape and type.

    Returns:
        (meta, array name -> array), or None when the store is absent or damaged.
    """
    meta = read_meta(folder)
    if meta is None:
        return None
    maps: dict[str, Any] = {}
    try:
        for name in NAMES if meta["files"] else ():
            entry, path = meta["files"][name], folder / f"{name}.npy"
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return None
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if list(array.shape) != entry["shape"] or array.dtype.name != entry["dtype"]:
                return None
            maps[name] = array
    except Exception:  # NumPy reads a header with Python's own tokeniser and parser, whose errors are of every kind
        return None
    return meta, maps


def verify_arrays(folder: Path) -> list[str]:
    """Compares a store's files with their SHA-256; one line per problem."""
    meta = read_meta(folder)
    if meta is None:
        return [f"{folder}: meta.json is missing or damaged"]
    problems = []
    for name, entry in sorted(meta["files"].items()):
        path = folder / f"{name}.npy"
        try:
            digest = file_digest(path, "sha256")
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        if digest != entry["sha256"]:
            problems.append(f"{path}: SHA-256 is {digest}, expected {entry['sha256']}")
    if not problems and open_arrays(folder) is None:
        problems.append(f"{folder}: shapes or sizes are not those of meta.json")
    return problems


def file_digest(path: Path, algorithm: str) -> str:
    """Hex digest of a file's content; MD5 serves to recognise known files, not as protection."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with reading(path) as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
