"""What is taken away: listed with its size, asked about, removed."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import InputError, OutsideError
from pipeline.shown import printable


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as nothing."""
    if path.is_symlink():
        return 0
    total = 0
    for each in [path] if path.is_file() else path.rglob("*"):
        with contextlib.suppress(OSError):  # it may go meanwhile
            total += each.stat().st_size if each.is_file() and not each.is_symlink() else 0
    return total


def in_words(size: int) -> str:
    """A number of bytes as people read it."""
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def sized_lines(paths: Sequence[Path]) -> list[str]:
    """A line for each path with its size."""
    return [printable(f"  {in_words(size_of(path)):>12}  {path}") for path in paths]


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether somebody agrees.

    Args:
        question: what is asked.
        yes: whether they have agreed already, with `--yes`.

    Raises:
        InputError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(
            "--yes: is needed where nobody can be asked; allowed: --yes, or --dry-run to see what would be"
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def remove(paths: Iterable[Path]) -> None:
    """Removes files and folders; what is a link goes as a link.

    Raises:
        OutsideError: one cannot be removed.
    """
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutsideError(f"{error.filename or path}: cannot be removed ({error.strerror})") from None
