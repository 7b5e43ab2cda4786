"""Addresses of tracking stores, and the file of a local one; what needs MLflow is in `tracker`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import not_allowed

STATE_DIR = Path("mlruns")  # of this folder: the default store, journals, artifacts, reports
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def resolve_uri(uri: str | None) -> str:
    """Makes the tracking URI absolute and checks its kind.

    Args:
        uri: the flag's value; without it MLFLOW_TRACKING_URI and then the default are used.

    Raises:
        InputError: a scheme that cannot hold runs.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db"
    scheme = uri.split("://", 1)[0].split("+", 1)[0]
    if "://" not in uri or scheme not in _SCHEMES:
        raise not_allowed(
            "--tracking-uri", uri, "sqlite:///FILE, http(s)://HOST:PORT, postgresql://, mysql://, mssql://"
        )
    if scheme == "sqlite":
        prefix, _, path = uri.partition(":///")
        if not path or path.startswith("?"):
            raise not_allowed("--tracking-uri", uri, "sqlite:///FILE")
        # a relative path means another file in every process with another working folder
        return f"{prefix}:///{Path(path).resolve()}"
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI."""
    return Path(uri.partition(":///")[2]) if uri.startswith("sqlite") else None


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


def shown(uri: str) -> str:
    from pipeline.training.environment import without_credentials

    return without_credentials(uri)


def first_line(error: BaseException) -> str:
    from pipeline.training.environment import scrubbed

    lines = str(error).strip().splitlines()
    return scrubbed(lines[0] if lines else type(error).__name__)[:300]
