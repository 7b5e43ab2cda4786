"""Has MLflow make the tables of a SQLite store, whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import OutsideError
from pipeline.files import reading, writing
from pipeline.locks import exclusive
from pipeline.tracking.sqlite_files import is_filled, made_aside

TABLES_PATIENCE = 120.0  # s


def make_tables(database: Path, uri: str, ready: Path | None) -> None:
    """Makes a store's file; the caller holds `initialising`.

    A process that is killed in the two seconds of MLflow's migrations would leave a file that no later call can open.

    Args:
        database: The file.
        uri: The store's address.
        ready: A file with the tables that may be copied, if there is one.
    """
    for leftover in database.parent.glob(f"{database.name}.new-*"):
        leftover.unlink(missing_ok=True)  # of killed processes: whoever is here holds the lock
    with made_aside(database) as aside:
        if ready is not None and is_filled(ready):
            with reading(ready) as source, writing(aside) as copy:
                shutil.copyfileobj(source, copy)
        else:
            migrate(aside, uri)


def migrate(database: Path, uri: str) -> None:
    """Has MLflow make its tables in a file that is not there yet.

    Args:
        database: The file.
        uri: Address of a SQLite store; its dialect is used.
    """
    from mlflow import MlflowClient

    scheme = uri.partition(":///")[0]
    client = MlflowClient(tracking_uri=f"{scheme}:///{database}")
    client.search_experiments(max_results=1)
    client._tracking_client.store.engine.dispose()


@contextlib.contextmanager
def initialising(database: Path | None) -> Iterator[None]:
    """Lets one process at a time create the tables of a SQLite store: several at once break the file for good.

    Args:
        database: The file; None for a store that is none.

    Raises:
        OutsideError: Another process holds the lock for longer than making tables can take.
    """
    if database is None:
        yield
        return
    lock = database.with_name(f"{database.name}.init-lock")
    with exclusive(lock, TABLES_PATIENCE) as got:
        if not got:
            raise OutsideError(f"{lock}: another process holds it for {TABLES_PATIENCE:.0f} s; end that one")
        yield
