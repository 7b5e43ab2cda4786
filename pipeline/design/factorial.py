"""Which cells to run, and which effects a fraction of them confounds.

Light to import (pyDOE3 brings SciPy with it and is imported only where a fraction is built), so that the
planner can call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

FULL_UP_TO = 5
RESOLUTION = 4
DESCRIBED = 3  # the most factors of an effect that is named beside another

Word = tuple[str, ...]


@dataclass(frozen=True)
class AliasSet:
    """Effects that a fraction cannot tell apart.

    Attributes:
        words: (sign, techniques of the effect) of the one it is named after and of all others of up to `DESCRIBED`
            factors, shortest first.
    """

    words: tuple[tuple[int, Word], ...]

    @property
    def lead(self) -> Word:
        """The shortest word, which the set is named after."""
        return self.words[0][1]

    def describe(self) -> str:
        """Writes the set as an equation, `ga:amp = -pm:tf32`, with words of at most `DESCRIBED` factors."""
        sign = self.words[0][0]
        parts = [":".join(self.lead)]
        parts += [("" if s == sign else "-") + ":".join(w) for s, w in self.words[1:]]
        return " = ".join(parts)


def full(techniques: Sequence[str]) -> tuple[dict[str, bool], ...]:
    """Lists all 2^k settings of k techniques, baseline first."""
    return tuple(dict(zip(techniques, on, strict=True)) for on in product((False, True), repeat=len(techniques)))


def fractional(techniques: Sequence[str]) -> tuple[dict[str, bool], ...]:
    """Lists the cells of a two-level design: all of them up to 5 techniques, a resolution-IV fraction above.

    Resolution IV keeps every main effect clear of two-factor interactions (Box, Hunter and Hunter,
    "Statistics for Experimenters", ch. 6). The generators are pyDOE3's, with signs turned where needed so
    that the all-off cell, the baseline that users compare with, is always one of the runs; signs do not
    change the resolution.

    Args:
        techniques: k distinct names.

    Returns:
        One mapping technique -> on per cell, baseline first.

    Raises:
        ValueError: A name is given twice.
    """
    names = tuple(techniques)
    if len(set(names)) != len(names):
        raise ValueError(f"techniques must be distinct, got {names}")
    if len(names) <= FULL_UP_TO:
        return full(names)
    from pyDOE3 import fracfact_by_res

    signs = fracfact_by_res(len(names), RESOLUTION)
    low = signs.sum(axis=1).argmin()
    signs = signs * (-signs[low])  # turn the columns so that this row, and with it some row, is all off
    rows = sorted((tuple(bool(v > 0) for v in row) for row in signs), key=lambda r: (sum(r), [not v for v in r]))
    return tuple(dict(zip(names, row, strict=True)) for row in rows)


def _columns(rows: Sequence[Mapping[str, bool]]) -> dict[str, int]:
    """Each technique's column over the distinct cells as the bits of a number, 1 where it is off."""
    distinct = list(dict.fromkeys(tuple(row.values()) for row in rows))
    names = tuple(rows[0]) if rows else ()
    return {name: sum((not row[i]) << bit for bit, row in enumerate(distinct)) for i, name in enumerate(names)}


def _sized(columns: Mapping[str, int], size: int, ones: int) -> Iterator[tuple[int, int, Word]]:
    """Goes through the words of one size: what tells apart, the sign of its product, and the word.

    Words whose products are equal but for their sign are aliases; the first one of a design's constants is 0.
    """
    for word in combinations(columns, size):
        product_of = 0
        for name in word:
            product_of ^= columns[name]
        negative = product_of & 1
        yield product_of ^ (ones if negative else 0), -1 if negative else 1, word


def _ones(rows: Sequence[Mapping[str, bool]]) -> int:
    return (1 << len({tuple(row.values()) for row in rows})) - 1


def _rank(columns: Mapping[str, int], ones: int) -> int:
    """How many of the columns are independent, products of others and constants left out."""
    basis: list[int] = []
    for column in columns.values():
        rest = column ^ (ones if column & 1 else 0)
        for other in basis:
            rest = min(rest, rest ^ other)
        if rest:
            basis.append(rest)
    return len(basis)


def defining_words(rows: Sequence[Mapping[str, bool]]) -> Iterator[tuple[int, Word]]:
    """Goes through the defining relation of a set of cells: the products of columns that are constant over them.

    Args:
        rows: Settings, one mapping technique -> on per cell, all with the same keys.

    Yields:
        (sign, word) pairs, shortest word first; none for a full factorial or an irregular set of cells.
    """
    columns, ones = _columns(rows), _ones(rows)
    if _rank(columns, ones) == len(columns):
        return
    for size in range(1, len(columns) + 1):
        for key, sign, word in _sized(columns, size, ones):
            if key == 0:
                yield sign, word


def is_regular_fraction(rows: Sequence[Mapping[str, bool]]) -> bool:
    """Says whether distinct cells form a regular fraction 2^(k-p), p > 0, with every technique at both levels."""
    columns, ones = _columns(rows), _ones(rows)
    rank = _rank(columns, ones)
    varying = all(column not in (0, ones) for column in columns.values())
    return bool(rows) and varying and rank < len(columns) and ones.bit_length() == 2**rank


def resolution(rows: Sequence[Mapping[str, bool]]) -> int | None:
    """Gives a regular fraction's resolution, the length of its shortest defining word; None for a full factorial."""
    first = next(defining_words(rows), None)
    return len(first[1]) if first else None


def alias_structure(rows: Sequence[Mapping[str, bool]]) -> tuple[AliasSet, ...]:
    """Partitions all effects of a regular fraction into alias sets.

    Two effects cannot be told apart where their columns of signs are equal, or opposite (Box, Hunter and Hunter,
    ch. 6). With 22 techniques each set has tens of thousands of words, of which nobody sees those of many factors.

    Args:
        rows: The cells of the fraction.

    Returns:
        One set per estimable effect, in the order of their shortest words, each with all its words of up to
        `DESCRIBED` factors; for a full factorial each set has one word.
    """
    columns, ones = _columns(rows), _ones(rows)
    count = 2 ** _rank(columns, ones) - 1  # every effect but the mean's own set
    sets: dict[int, list[tuple[int, Word]]] = {}
    for size in range(1, len(columns) + 1):
        if len(sets) == count and size > DESCRIBED:
            break
        for key, sign, word in _sized(columns, size, ones):
            if key and (size <= DESCRIBED or key not in sets):
                sets.setdefault(key, []).append((sign, word))
    # signs are relative to the word that the set is named after
    return tuple(AliasSet(tuple((sign * words[0][0], word) for sign, word in words)) for words in sets.values())
