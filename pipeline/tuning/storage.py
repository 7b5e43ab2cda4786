"""Where studies are kept: opens Optuna storages, and makes them so that a kill or a second process breaks nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.pruners import BasePruner

from pipeline.errors import OutsideError, first_line
from pipeline.shown import redacted
from pipeline.tracking.locks import exclusive
from pipeline.tracking.sqlite_files import is_filled, made_aside, use_wal
from pipeline.tracking.uri import sqlite_file

LOCK_PATIENCE = 60.0
BUSY_SECONDS = 60.0  # SQLite's own five are too few for several processes on a busy machine
TRIES = 5


def open_study(
    url: str, name: str, directions: Sequence[str], pruner: BasePruner | None, *, lock: Path, fresh: bool = False
) -> optuna.Study:
    """Opens a study, and makes storage and study where there is none.

    Args:
        url: of the storage (absolute, see `storage_url.resolve`).
        name: of the study.
        directions: `maximize` or `minimize` for each objective.
        pruner: None for none.
        lock: one process of this host at a time makes tables and studies: several at once break a SQLite file.
        fresh: forgets a study of this name first.

    Raises:
        OutsideError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with exclusive(lock, LOCK_PATIENCE):
        for attempt in range(TRIES):
            try:
                return _open(url, name, directions, pruner, fresh)
            except Exception as error:  # SQLAlchemy and each driver have their own
                if attempt + 1 == TRIES or url.startswith("sqlite") or isinstance(error, ImportError):
                    raise OutsideError(f"Optuna storage {redacted(url)}: {first_line(error)}") from error
                time.sleep(0.5)  # a process of another host may be making the same tables
    raise AssertionError("unreachable")


def _open(url: str, name: str, directions: Sequence[str], pruner: BasePruner | None, fresh: bool) -> optuna.Study:
    storage = _backend(url)
    if fresh:
        with contextlib.suppress(KeyError):
            optuna.delete_study(study_name=name, storage=storage)
    return optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[optuna.study.StudyDirection[direction.upper()] for direction in directions],
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def existing(url: str, name: str) -> optuna.Study | None:
    """A study that is there, for reading; None when storage or study is not.

    Raises:
        OutsideError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = sqlite_file(url)
    if path is not None and not is_filled(path):
        return None
    try:
        return optuna.load_study(study_name=name, storage=_backend(url))
    except KeyError:
        return None
    except Exception as error:
        raise OutsideError(f"Optuna storage {redacted(url)}: {first_line(error)}") from error


def _backend(url: str) -> Any:
    path = sqlite_file(url)
    if path is None:
        return optuna.storages.get_storage(url)
    if not is_filled(path):
        _make(path)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}})
    sqlalchemy.event.listen(storage.engine, "connect", _lighter)
    storage.engine.dispose()  # connections from here on are the lighter ones
    return storage


def _lighter(connection: Any, _record: Any) -> None:
    """Does not wait for the disk at each of a trial's dozen commits, which would cost more than short trials do.

    With write-ahead logging a process may die at any time; only a power cut could lose the last trials, not the file.
    """
    connection.execute("PRAGMA synchronous=NORMAL")


def _make(path: Path) -> None:
    """Makes the tables in a file beside the database, then renames it: no kill leaves half of them."""
    with made_aside(path) as aside:
        made = optuna.storages.RDBStorage(f"sqlite:///{aside}")
        made.engine.dispose()
        use_wal(aside)
