"""Where things lie, and how a file is written whole."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from pipeline.errors import InputError, OutsideError

STATE_DIR = Path("mlruns")  # of this folder: the default store, journals, artifacts, reports


def default_data_dir() -> Path:
    """Where data sets are kept when nobody says: `$XDG_CACHE_HOME/ablate/data` or `~/.cache/ablate/data`.

    Raises:
        InputError: there is no home.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says that a relative path is invalid and to be ignored
    if Path(cache).is_absolute():
        return Path(cache, "ablate", "data")
    try:
        return Path.home() / ".cache" / "ablate" / "data"
    except RuntimeError:  # no HOME, and a user without an entry in the password database
        raise InputError(
            "--data-dir: no home directory is known; allowed: --data-dir DIR, or HOME or XDG_CACHE_HOME in the "
            "environment, an absolute path"
        ) from None


def own_state_dir(path: Path, *, create: bool = True) -> None:
    """Makes the state folder, or makes sure that nobody can have put something into the one that is there.

    What is in it is written to, locked, read back and delivered: who could put a link or a journal there would have the
    program write, or tell, what it must not. Its owner has to be this user, root, or the owner of the folder around it,
    in which the user has chosen to work; the same goes for its group, where that may write.

    Args:
        path: the folder.
        create: whether to make it where it is not there.

    Raises:
        InputError: it is somebody else's, or others may write into it.
        OutsideError: it cannot be made.
    """
    try:
        if create and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # of another process of ours, or no folder
                path.mkdir(mode=0o775)
        if not path.is_dir() and not create:
            return
        found, link, around = path.stat(), path.lstat(), path.absolute().parent.stat()
        next(path.iterdir(), None)
    except OSError as error:
        raise OutsideError(f"{path}: cannot be made ({error.strerror})") from None
    remedy = "take it away if it is not yours, or work in a folder of your own"
    for owner in (found.st_uid, link.st_uid):
        if owner not in (os.geteuid(), 0, around.st_uid):
            raise InputError(f"{path}: belongs to another user (uid {owner}); {remedy}")
    if path.is_mount():  # a volume: whoever mounted it has decided who may write
        return
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise InputError(f"{path}: everybody may write into it; chmod o-w {path}, or {remedy}")
    groups = {*os.getgroups(), os.getegid(), around.st_gid}
    if found.st_mode & stat.S_IWGRP and found.st_gid not in groups:
        raise InputError(f"{path}: another group (gid {found.st_gid}) may write into it; chmod g-w {path}, or {remedy}")


def write_atomically(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Writes a file beside its place and renames it: a reader sees the old content or the new one, never a part.

    Args:
        path: the file; its folder must be there.
        content: text (written as UTF-8) or bytes.
        durable: wait until content and name are on the disk.

    Raises:
        OSError: the file cannot be written; the old one is untouched, and nothing is left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        Path(name).chmod(0o666 & ~umask())  # mkstemp's own is for secrets
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def umask() -> int:
    """The mask of new files; it can only be read by setting it, but for Linux, which tells."""
    try:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("Umask:")[2].split()[0], 8)
    except (OSError, ValueError, IndexError):
        return 0o022
