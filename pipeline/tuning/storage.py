"""Where studies are kept: opens Optuna storages, and makes them so that a kill or a second process breaks nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.pruners import BasePruner

from pipeline.design.names import IDENTITY_ATTRIBUTE
from pipeline.errors import InputError, OutsideError, first_line, not_allowed
from pipeline.locks import exclusive
from pipeline.shown import redacted
from pipeline.tracking.sqlite_files import is_filled, made_aside, use_wal
from pipeline.tracking.uri import sqlite_file

LOCK_PATIENCE = 60.0
BUSY_SECONDS = 60.0  # SQLite's own five are too few for several processes on a busy machine
TRIES = 5
MARKING_SECONDS = 1.0


def open_study(
    url: str,
    name: str,
    identity: str,
    directions: Sequence[str],
    pruner: BasePruner | None,
    *,
    lock: Path,
    fresh: bool = False,
) -> optuna.Study:
    """Opens a study of ours, and makes storage and study where there is none.

    Args:
        url: of the storage (absolute, see `storage_url.resolve`).
        name: of the study.
        identity: of what is searched; it marks a study as ours.
        directions: `maximize` or `minimize` for each objective.
        pruner: None for none.
        lock: one process of this host at a time makes tables and studies: several at once break a SQLite file.
        fresh: forgets a study of ours of this name first.

    Raises:
        InputError: the study is not ours, or another search.
        OutsideError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with exclusive(lock, LOCK_PATIENCE):
        for attempt in range(TRIES):
            try:
                return _open(url, name, identity, directions, pruner, fresh)
            except InputError:
                raise
            except Exception as error:  # SQLAlchemy and each driver have their own
                if attempt + 1 == TRIES or url.startswith("sqlite") or isinstance(error, ImportError):
                    raise OutsideError(f"Optuna storage {redacted(url)}: {first_line(error)}") from error
                time.sleep(0.5)  # a process of another host may be making the same tables
    raise AssertionError("unreachable")


def _open(
    url: str, name: str, identity: str, directions: Sequence[str], pruner: BasePruner | None, fresh: bool
) -> optuna.Study:
    storage = _backend(url)
    pruner = pruner or optuna.pruners.NopPruner()
    if fresh:
        with contextlib.suppress(KeyError):
            check_ours(optuna.load_study(study_name=name, storage=storage))
            optuna.delete_study(study_name=name, storage=storage)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[optuna.study.StudyDirection[direction.upper()] for direction in directions],
            pruner=pruner,
        )
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        check_same(study, identity)
    else:
        study.set_user_attr(IDENTITY_ATTRIBUTE, identity)
    return study


def check_ours(study: optuna.Study) -> None:
    """Refuses a study that ablate did not make: a storage may be shared with other programs.

    Every version of ablate has written the identity of its search into its studies.

    Raises:
        InputError: it is somebody else's.
    """
    patience = time.monotonic() + MARKING_SECONDS
    while IDENTITY_ATTRIBUTE not in study.user_attrs:
        # one that another process is just making gets its mark within milliseconds, and before any trial
        if study.user_attrs or study.get_trials(deepcopy=False) or time.monotonic() > patience:
            raise InputError(
                f"--name: {study.study_name!r} is not allowed; allowed: another name (ablate has not made the study of "
                "this name in the Optuna storage; it is left as it is)"
            )
        time.sleep(0.1)


def check_same(study: optuna.Study, identity: str) -> None:
    """Refuses a study that is not ours, and one of another search.

    Raises:
        InputError: it is one of them.
    """
    check_ours(study)
    if study.user_attrs[IDENTITY_ATTRIBUTE] != identity:
        raise InputError(
            f"--name: {study.study_name!r} is not allowed; allowed: another name, or --fresh (the study of this name "
            "has another model, data set, recipe, objective, space, seed, limit or device)"
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
    except InputError:
        raise
    except Exception as error:
        raise OutsideError(f"Optuna storage {redacted(url)}: {first_line(error)}") from error


def _backend(url: str) -> Any:
    path = sqlite_file(url)
    if path is None:
        return optuna.storages.get_storage(url)
    if not is_filled(path):
        _make(path)
    _check_tables(path)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}})
    sqlalchemy.event.listen(storage.engine, "connect", _lighter)
    storage.engine.dispose()  # connections from here on are the lighter ones
    return storage


def _check_tables(path: Path) -> None:
    """Optuna would put its tables into any database; into MLflow's, with a version that MLflow then takes for its own.

    Raises:
        InputError: there are tables, and none of Optuna's.
    """
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise not_allowed("--storage", f"sqlite:///{path}", "a new file, or a database of Optuna (this one has others)")


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
