"""SQLite files of tracking stores and tunings: made whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def is_filled(database: Path) -> bool:
    """Whether there is a database; SQLite makes an empty file when it only connects."""
    return database.is_file() and database.stat().st_size > 0


@contextlib.contextmanager
def made_aside(database: Path) -> Iterator[Path]:
    """Renames a file that the block makes beside its place: a kill in between leaves no half of a database there.

    Args:
        database: The file's place; its folder is made when absent.

    Yields:
        The path where the block is to make it, and to close it again.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    aside = database.with_name(f"{database.name}.new-{os.getpid()}")
    aside.unlink(missing_ok=True)
    yield aside
    with contextlib.suppress(FileNotFoundError):  # nothing was made: whoever opens the database tells why
        aside.replace(database)


def use_wal(database: Path) -> None:
    """Turns on write-ahead logging: nearly twice the write rate, and readers (the UIs) do not block the writer."""
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
