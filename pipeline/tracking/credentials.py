"""TODO(charter)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit


def without_credentials(uri: str) -> str:
    """The URI without user and password, and without query values that may hold a secret."""
    parts = urlsplit(uri)
    if not parts.scheme or not parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def scrubbed(text: str) -> str:
    """A message without the user and password of any URI in it (errors of HTTP and database libraries quote them)."""
    return re.sub(r"(?<=://)[^\s/]*@", "", text)


def shown(uri: str) -> str:

    return without_credentials(uri)


def first_line(error: BaseException) -> str:

    lines = str(error).strip().splitlines()
    return scrubbed(lines[0] if lines else type(error).__name__)[:300]
