"""Where things lie, and how a file is written whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

STATE_DIR = Path("mlruns")  # of this folder: the default store, journals, artifacts, reports


def default_data_dir() -> Path:
    """Where data sets are kept when nobody says: `$XDG_CACHE_HOME/ablate/data` or `~/.cache/ablate/data`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says that a relative path is invalid and to be ignored
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "ablate" / "data"


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
        Path(name).chmod(0o666 & ~_umask())  # mkstemp's own is for secrets
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


def _umask() -> int:
    """The mask of new files; it can only be read by setting it, but for Linux, which tells."""
    try:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("Umask:")[2].split()[0], 8)
    except (OSError, ValueError, IndexError):
        return 0o022
