"""Addresses as they may be shown and kept: without user, password and query."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def without_credentials(uri: str) -> str:
    """The URI without user and password, and without query values that may hold a secret."""
    address = urlsplit(uri)
    if not address.scheme or not address.netloc:
        return uri
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2], query=""))
