"""Addresses of tracking stores, and the file of a local one; what needs MLflow is in `tracker`."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import not_allowed

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
