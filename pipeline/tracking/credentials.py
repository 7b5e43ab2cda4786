"""Addresses as they may be shown and kept: without user, password and query."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from pipeline.shown import redacted

_SERVED = ("http", "https", "databricks", "uc")  # the others are databases, whose addresses SQLAlchemy reads
_HOST = re.compile(r"(?:[\w.~%-]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")
_PORT = re.compile(r"@(?:[\w.~%-]+|\[[0-9A-Fa-f:.]+\]):\d+(?:/|$)")
_ACCOUNT = re.compile(r"[^:/@]*(?::[^@]*)?@")  # of a database: SQLAlchemy takes a password with / # ?


def without_credentials(uri: str) -> str:
    """The URI without user and password, and without query values that may hold a secret.

    Stores are known by this value: for an address that a client can use it never changes.

    Args:
        uri: any address.
    """
    scheme, found, rest = uri.partition("://")
    if not found or rest.startswith("/"):
        return redacted(uri)
    address = f"{scheme}://{_without_account(scheme.partition('+')[0], rest)}"
    try:
        parts = urlsplit(address)
    except ValueError:  # no address at all: whoever opens it says so
        return redacted(address).partition("?")[0]
    if not parts.netloc:
        return redacted(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _without_account(scheme: str, rest: str) -> str:
    """What is behind `://` without user and password, which may hold any character, an @ too."""
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme in _SERVED:
        # a server's client ends the host at the first / ? #: where it is none, or an account is there and another @
        # follows, a password goes on. An @ in a query alone is none, unless a port says that it ends an account
        user, _, host = netloc.rpartition("@")
        outside = rest[len(netloc) :].partition("?")
        goes_on = "@" in outside[0] or "@" in outside[2].partition("#")[2] or _PORT.search(outside[2])
        usable = _HOST.fullmatch(host) is not None and not (user and goes_on)
        return host + rest[len(netloc) :] if usable else rest.rpartition("@")[2]
    account = _ACCOUNT.match(rest)
    rest = rest[account.end() :] if account else rest
    before, mark, query = rest.partition("?")
    if _PORT.search(query):  # an @ in a query is none of an account, unless a port says so
        return query.rpartition("@")[2]
    return before.rpartition("@")[2] + mark + query


def without_account(address: str) -> str:
    """An address with or without a scheme (`HOST:PORT` of a cluster) without user, password and secret queries."""
    return redacted(address) if "://" in address else address.rpartition("@")[2]
