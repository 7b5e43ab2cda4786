"""`ablate clean`: removes what can be made again and nobody has used for some days."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands import removal
from pipeline.commands.command_options import CleanOptions
from pipeline.commands.output import stream_for_progress
from pipeline.paths import STATE_DIR, default_data_dir, own_state_dir

_DAY = 86_400.0  # s


@dataclass(frozen=True)
class Removable:
    """Something that can be made again.

    Attributes:
        path: file or folder.
        what: what it is.
    """

    path: Path
    what: str


def clean_up(options: CleanOptions) -> int:
    """Lists what can go, asks, and removes it.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: nobody can be asked, or the state folder is not only ours.
        OutsideError: something cannot be removed.
    """
    out = stream_for_progress(options.as_json)
    own_state_dir(STATE_DIR, create=False)
    data_dir = Path(options.data_dir) if options.data_dir else default_data_dir()
    limit = time.time() - options.days * _DAY
    found = [each for each in _candidates(data_dir) if _used(each.path) <= limit]
    sizes = {each.path: removal.size_of(each.path) for each in found}
    for each, line in zip(found, removal.sized_lines([each.path for each in found]), strict=True):
        print(f"{line}  ({each.what})", file=out)
    print(f"{len(found)} to remove, {removal.in_words(sum(sizes.values()))}, unused for {options.days} days", file=out)
    done = bool(found) and not options.dry_run and removal.confirmed("remove them?", yes=options.yes)
    if done:
        removal.remove(each.path for each in found)
    if options.as_json:
        rows = [{"path": str(each.path), "what": each.what, "bytes": sizes[each.path]} for each in found]
        print(json.dumps({"removed": done, "files": rows}, indent=1))
    return 0


def _candidates(data_dir: Path) -> Iterator[Removable]:
    for path in _children(data_dir / "stores"):
        if path.is_dir():
            yield Removable(path, "prepared images")
    for path in _children(data_dir / "digests"):
        yield Removable(path, "remembered digest of a folder")
    for path in _children(STATE_DIR / "work") if _settled() else ():
        # one with a checkpoint is of a run that goes on from it
        if path.is_dir() and not (path / "checkpoint.pt").exists():
            yield Removable(path, "work folder of a run")
    with contextlib.suppress(OSError, KeyError):  # no entry in the password database
        for path in _children(Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")):
            yield Removable(path, "compiler's cache")


def _settled() -> bool:
    """Whether no controller is at work in this folder, and no journal names files that are still to be delivered."""
    from pipeline.tracking import journal
    from pipeline.tracking.delivery import delivered_state

    for path in (STATE_DIR / "journal").glob("*.journal"):
        with journal.abandoned(path) as free:
            if not free or delivered_state(path).offset < journal.valid_end(path):
                return False
    return True


def _children(folder: Path) -> list[Path]:
    """What is in a folder of our own, links left out."""
    if not os.path.isdir(folder) or folder.is_symlink():  # noqa: PTH112 - a path's own method raises for long names
        return []
    return sorted(path for path in folder.iterdir() if not path.is_symlink())


def _used(path: Path) -> float:
    """When something below a path was last read or written, in s since the epoch."""
    latest = 0.0
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with contextlib.suppress(OSError):
            found = each.lstat()
            times = (
                (found.st_mtime,) if each.is_dir() else (found.st_mtime, found.st_atime)
            )  # listing it reads a folder
            latest = max(latest, *times)
    return latest
