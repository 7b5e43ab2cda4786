"""The packed parts: put in order, joined, checked, and unpacked where nothing unsafe can come out of them."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError, not_allowed

_PART = re.compile(r"(.+\.tar\.gz)\.([1-9][0-9]*)")


def files_of(packed: Sequence[Path], scratch: Path) -> Path:
    """Gives the folder with the files: the given one, if it is unpacked, or what the parts hold.

    Args:
        packed: The parts in any order, or one folder that holds them, or one that holds the unpacked files.
        scratch: An empty folder for what is unpacked.

    Raises:
        InputError: A part is missing or damaged, or a member is unsafe.
    """
    first = packed[0]
    if len(packed) > 1 or not first.is_dir():
        return _unpack(_parts(packed), scratch)
    # the folder of a run has its run.json beside the parts
    if not (first / "run.json").is_file() or any(_PART.fullmatch(path.name) for path in first.iterdir()):
        return _unpack(_parts(sorted(first.iterdir())), scratch)
    link = next((path for path in first.rglob("*") if path.is_symlink()), None)
    if link:
        raise not_allowed("PACKED", link.relative_to(first).as_posix(), "files and folders, no links")
    return first


def _parts(files: Sequence[Path]) -> list[Path]:
    """Puts the parts in numeric order and refuses a gap, which would join into something else."""
    numbered: dict[int, Path] = {}
    stems = set()
    for path in files:
        match = _PART.fullmatch(path.name)
        if not match or not path.is_file():
            continue
        if int(match[2]) in numbered:
            raise InputError(f"PACKED: part {match[2]} is given twice: {numbered[int(match[2])]} and {path}")
        numbered[int(match[2])] = path
        stems.add(match[1])
    if len(stems) != 1:
        shown = ", ".join(sorted(stems)) or ", ".join(path.name for path in files[:3])
        raise not_allowed("PACKED", shown, "the parts results.tar.gz.1, .2, ... of one run, or its unpacked folder")
    missing = sorted(set(range(1, max(numbered) + 1)) - set(numbered))
    if missing:
        stem = stems.pop()
        raise InputError(f"PACKED: missing: {', '.join(f'{stem}.{number}' for number in missing)}")
    return [numbered[number] for number in sorted(numbered)]


def _unpack(parts: Sequence[Path], scratch: Path) -> Path:
    """Joins, decompresses and extracts.

    The whole stream is decompressed first: tarfile stops at the archive's last block and would never look at gzip's
    checksum.
    """
    joined, tar, root = scratch / "joined.tar.gz", scratch / "joined.tar", scratch / "files"
    with joined.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)
    try:
        with gzip.open(joined) as stream, tar.open("wb") as out:
            shutil.copyfileobj(stream, out)
        with tarfile.open(tar) as archive:
            for member in archive.getmembers():
                _safe(member)
            archive.extractall(root, filter="data")
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.ReadError) as error:
        last = parts[-1].name
        raise InputError(f"PACKED: damaged, or a part after {last} is missing ({error})") from None
    except (tarfile.FilterError, OSError) as error:
        raise InputError(f"PACKED: cannot be unpacked ({error})") from None
    joined.unlink()
    tar.unlink()
    return root


def _safe(member: tarfile.TarInfo) -> None:
    """Refuses what has no place in the evidence. The `data` filter would mend some of it silently."""
    name = Path(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
        raise not_allowed("PACKED", member.name, "files and folders below the archive's root, no links")
