"""What a written value is: the core schema of YAML 1.2 for settings, plain decimal numbers for options.

YAML 1.1, which PyYAML reads, takes 064 for 52, 1:30 for 90, `yes` and `off` for booleans and 1e3 for a text. A value
has to be what it looks like. Nothing is imported here but the standard library: `--help` needs this module.
"""

from __future__ import annotations

import math
import re
import unicodedata

# YAML 1.2.2, section 10.3.2 "Tag Resolution" of the core schema; [0-9] and no \d, which has the digits of all scripts
NULL = re.compile(r"null|Null|NULL|~|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT10 = re.compile(r"[-+]?[0-9]+")
INT8 = re.compile(r"0o[0-7]+")
INT16 = re.compile(r"0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITY = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)")
NAN = re.compile(r"\.nan|\.NaN|\.NAN")

LONGEST_NUMBER = 400  # characters; the largest double has 309 digits, and reading a million of them takes minutes

_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # what makes a text read otherwise

Scalar = str | int | float | bool | None


def scalar(text: str) -> Scalar:
    """What a plain (unquoted) scalar is in the core schema of YAML 1.2.

    Raises:
        ValueError: a number that is not finite, or far too long, or that YAML 1.1 reads as another one (064 as 52).
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text in ("true", "True", "TRUE")
    if _LEADING_ZERO.fullmatch(text):
        raise ValueError("a number that all read alike: without a leading zero")
    if INT10.fullmatch(text) or INT8.fullmatch(text) or INT16.fullmatch(text):
        return _whole(text)
    if FLOAT.fullmatch(text) or INFINITY.fullmatch(text) or NAN.fullmatch(text):
        return finite(text)
    return text


def whole(text: str) -> int:
    """The whole number that a text is, written in decimal digits.

    Raises:
        ValueError: it is none, or far too long.
    """
    if not INT10.fullmatch(text):
        raise ValueError("a whole number")
    return _whole(text)


def finite(text: str) -> float:
    """The finite number that a text is; a negative zero is zero.

    Raises:
        ValueError: it is none, or beyond what a float holds.
    """
    if not FLOAT.fullmatch(text) or len(text) > LONGEST_NUMBER or not math.isfinite(float(text)):
        raise ValueError("a finite number")
    return float(text) + 0.0


def line(text: str) -> str:
    """A text of one line, as it is.

    Raises:
        ValueError: it is blank, has control or direction characters, or stands for bytes that are not UTF-8.
    """
    unseen = any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in _DIRECTIONS
        for character in text
    )
    if unseen or not text.strip():
        raise ValueError("a text of one line")
    return text


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of at most {LONGEST_NUMBER} characters")
    base = 8 if INT8.fullmatch(text) else 16 if INT16.fullmatch(text) else 10
    return int(text, base)
