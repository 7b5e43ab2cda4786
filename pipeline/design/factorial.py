"""Which cells to run, and which effects a fraction of them confounds.

Light to import (pyDOE3 brings SciPy with it and is imported only where a fraction is built), so that the
planner can call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

FULL_UP_TO = 5
RESOLUTION = 4

Word = tuple[str, ...]


@dataclass(frozen=True)
class AliasSet:
    """Effects that a fraction cannot tell apart.

    Attributes:
        words: (sign, techniques of the effect) of each, shortest first.
    """

    words: tuple[tuple[int, Word], ...]

    @property
    def lead(self) -> Word:
        """The shortest word, which the set is named after."""
        return self.words[0][1]

    def describe(self, longest: int = 3) -> str:
        """Writes the set as an equation, `ga:amp = -pm:tf32`, with words of at most `longest` factors."""
        sign = self.words[0][0]
        parts = [":".join(self.lead)]
        parts += [("" if s == sign else "-") + ":".join(w) for s, w in self.words[1:] if len(w) <= longest]
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


def defining_words(rows: Sequence[Mapping[str, bool]]) -> tuple[tuple[int, Word], ...]:
    """Finds the defining relation of a set of cells: the products of columns that are constant over them.

    Args:
        rows: Settings, one mapping technique -> on per cell, all with the same keys.

    Returns:
        (sign, word) pairs, shortest word first; empty for a full factorial or an irregular set of cells.
    """
    names = tuple(rows[0]) if rows else ()
    words = []
    for size in range(1, len(names) + 1):
        for word in combinations(names, size):
            parity = {sum(not row[name] for name in word) % 2 for row in rows}
            if len(parity) == 1:
                words.append((-1 if parity.pop() else 1, word))
    return tuple(words)


def is_regular_fraction(rows: Sequence[Mapping[str, bool]]) -> bool:
    """Says whether distinct cells form a regular fraction 2^(k-p), p > 0, with every technique at both levels."""
    if not rows:
        return False
    distinct = {tuple(row.values()) for row in rows}
    words = defining_words(rows)
    if not words or len(words[0][1]) < 2:
        return False
    return len(distinct) * (len(words) + 1) == int(2 ** len(rows[0]))


def resolution(rows: Sequence[Mapping[str, bool]]) -> int | None:
    """Gives a regular fraction's resolution, the length of its shortest defining word; None for a full factorial."""
    words = defining_words(rows)
    return len(words[0][1]) if words else None


def alias_structure(rows: Sequence[Mapping[str, bool]]) -> tuple[AliasSet, ...]:
    """Partitions all effects of a regular fraction into alias sets.

    Multiplying an effect by every word of the defining relation gives the effects it cannot be told from
    (Box, Hunter and Hunter, ch. 6).

    Args:
        rows: The cells of the fraction.

    Returns:
        One set per estimable effect, in the order of their shortest words; for a full factorial each set has
        one word.
    """
    names = tuple(rows[0]) if rows else ()
    defining = defining_words(rows)
    seen: set[Word] = {word for _, word in defining}
    count = 2 ** len(names) // (len(defining) + 1) - 1  # every effect but the mean's own set
    sets: list[AliasSet] = []
    for size in range(1, len(names) + 1):
        for word in combinations(names, size):
            if len(sets) == count:
                return tuple(sets)
            if word in seen:
                continue
            members = [(1, word)]
            for sign, relation in defining:
                other = set(word) ^ set(relation)
                members.append((sign, tuple(n for n in names if n in other)))
            members.sort(key=lambda m: (len(m[1]), [names.index(n) for n in m[1]]))
            seen.update(w for _, w in members)
            sets.append(AliasSet(tuple(members)))
    return tuple(sets)
