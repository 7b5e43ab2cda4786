"""Makes and migrates the SQLite files of MLflow's store, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def make_tables(database: Path, uri: str, made: Path | None) -> None:
    """Has MLflow make its tables in a file beside the database (or copies them, if they are made), then renames it: a
    process that is killed in the two seconds of MLflow's migrations would leave a file that no later call can open.
    """
    for leftover in database.parent.glob(f"{database.name}.new-*"):
        leftover.unlink(missing_ok=True)  # of killed processes: whoever is here holds the lock
    temporary = database.with_name(f"{database.name}.new-{os.getpid()}")
    if made is not None and filled(made):
        shutil.copyfile(made, temporary)
    else:
        migrate(temporary, uri)
    with contextlib.suppress(FileNotFoundError):
        temporary.replace(database)


def migrate(database: Path, uri: str) -> None:
    """Has MLflow make its tables in a file that is not there yet."""
    from mlflow import MlflowClient

    scheme = uri.partition(":///")[0]
    client = MlflowClient(tracking_uri=f"{scheme}:///{database}")
    client.search_experiments(max_results=1)
    client._tracking_client.store.engine.dispose()


@contextlib.contextmanager
def initialising(database: Path | None) -> Iterator[None]:
    """Lets one process at a time create the tables of a SQLite store: several at once break the file for good."""
    if database is None:
        yield
        return
    with database.with_name(f"{database.name}.init-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def filled(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0


def use_wal(database: Path) -> None:
    """Write-ahead logging nearly doubles the write rate, and readers (the UI) do not block the writer."""
    connection = sqlite3.connect(database, timeout=10)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def set_environment() -> None:
    """No telemetry, and an absent server is told within seconds (the defaults block for minutes)."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # the client prints two lines for each run that it ends on a server; with --json they are not the program's
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
