"""What a store refused for good is set aside: a file beside the journal has each entry with what the store said."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import OutsideError
from pipeline.files import appending
from pipeline.tracking.entries import Refused


def refused_path(path: Path) -> Path:
    """Where the refused entries of a journal are kept."""
    return path.with_suffix(".refused")


def keep_refused(path: Path, refused: Sequence[Refused]) -> None:
    """Sets entries aside; only then may the journal count as delivered.

    Args:
        path: the journal.
        refused: entries, each with what the store said.

    Raises:
        OutsideError: the disk refuses as well.
    """
    if not refused:
        return
    lines = "".join(json.dumps({"why": why, "entry": entry}) + "\n" for entry, why in refused)
    try:
        with appending(refused_path(path)) as stream:
            stream.write(lines.encode("ascii"))
    except OSError as error:
        raise OutsideError(f"{refused_path(path)}: cannot be written ({error.strerror or error})") from None


def remove_refused(path: Path) -> None:
    """Forgets what was set aside: the journal is delivered from its beginning, and what is refused comes again."""
    with contextlib.suppress(OSError):
        refused_path(path).unlink(missing_ok=True)
