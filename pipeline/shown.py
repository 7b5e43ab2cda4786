"""What may be shown: every text that leaves the program for a person goes through here.

Text of studies, stores, archives and servers is data. On a terminal it must not move the cursor, nor be read backwards;
in a table for a spreadsheet it must not be a formula; and nowhere may it tell a password.
"""

from __future__ import annotations

import re
import unicodedata

# user and password of an address end with its last @: a password may hold / # ? @. sqlite:////a@b has none
_USERINFO = re.compile(r"(?<=://)(?!/)[^\s'\"<>()\[\]{},]*@")
_SECRET_QUERY = re.compile(r"(?i)([?&;](?:password|passwd|pwd|token|secret|api[-_]?key|sslpassword)=)[^&;#\s'\"]*")
_BREAKS = re.compile(r"[\r\n]")
_MARKUP = re.compile(r"([\\`\[\]|])")


def printable(text: object) -> str:
    """Text of one line that does nothing to a terminal: control and direction characters become escapes.

    Args:
        text: anything; `str` is applied. Line breaks and tabs are escaped too.
    """
    whole = str(text)
    if whole.isprintable():  # nearly all text: documents have millions of characters
        return whole
    return "".join(character if _harmless(character) else _escape(character) for character in whole)


def printable_lines(text: object) -> str:
    """As `printable`, line breaks kept."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


def _harmless(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def redacted(text: object) -> str:
    """Text in which no address tells its user, its password or a query value that names a secret.

    Args:
        text: an address, or a message that quotes some.
    """
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("", str(text)))


def markdown_cell(text: object) -> str:
    """Text for a line of Markdown or a cell of a table: no link, no code, no HTML, no further cell, one line."""
    return _MARKUP.sub(r"\\\1", printable(_BREAKS.sub(" ", str(text)))).replace("<", "&lt;")


def spreadsheet_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula (OWASP's rule: a quote before = + - @, tab and carriage return)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 run` or `2 runs`.

    Args:
        number: how many.
        noun: in the singular; its plural ends with s.
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")
