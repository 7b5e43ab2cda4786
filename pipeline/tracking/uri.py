"""Addresses of stores and databases: their kinds, and the file behind a SQLite address."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import not_allowed

DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def resolve_uri(uri: str | None) -> str:
    """Makes the tracking URI absolute and checks its kind.

    Args:
        uri: The flag's value; without it MLFLOW_TRACKING_URI and then the default are used.

    Raises:
        InputError: A scheme that cannot hold runs.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    allowed = "sqlite:///FILE, http(s)://HOST:PORT, postgresql://, mysql://, mssql://"
    return absolute_uri(uri, "--tracking-uri", _SCHEMES, allowed)


def absolute_uri(uri: str, option: str, schemes: Collection[str], allowed: str) -> str:
    """Checks the kind of an address, and makes the path of a SQLite file absolute.

    Args:
        uri: The address.
        option: Where it was given, for the message.
        schemes: Those that are allowed, without drivers (`postgresql+psycopg2` has one).
        allowed: The same for the message.

    Raises:
        InputError: Another scheme, or SQLite without a file.
    """
    try:
        urlsplit(uri)
    except ValueError:  # half of an IPv6 address, which MLflow cannot take apart; in a password it is %5B
        raise not_allowed(option, uri, allowed) from None
    scheme = scheme_of(uri)
    if scheme not in schemes:
        raise not_allowed(option, uri, allowed)
    if scheme != "sqlite":
        if scheme in ("http", "https") and not _names_a_server(uri):
            raise not_allowed(option, uri, f"an address with a host and a port ({allowed})")
        return uri
    prefix, _, path = uri.partition(":///")
    if not path or path.startswith((":memory:", "?")):
        raise not_allowed(option, uri, "sqlite:///FILE")
    # a relative path means another file in every process with another working folder
    absolute = f"{prefix}:///{Path(path).resolve()}"
    try:
        absolute.encode()
    except UnicodeEncodeError:  # no database driver takes other bytes
        raise not_allowed(option, absolute, "a path in UTF-8, its folder's included") from None
    return absolute


def _names_a_server(uri: str) -> bool:
    try:
        found = urlsplit(uri)
        return bool(found.hostname) and found.port != 0  # reading it checks it
    except ValueError:  # `[` without `]`, a port that is none
        return False


def scheme_of(uri: str) -> str:
    """The kind of an address without its driver; empty where it is none."""
    scheme, found, _ = uri.partition("://")
    return scheme.partition("+")[0] if found else ""


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite address; None for another one."""
    return Path(uri.partition(":///")[2]) if scheme_of(uri) == "sqlite" else None
