"""The study in one table: what each technique does to each model and data set, and what is recommended for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.analysis.pooling import ALL
from pipeline.analysis.report.labels import GroupLabels

# One letter for each verdict: colour alone says nothing to who cannot see it, or has it in black and white.
LETTERS = {"pays": "P", "costs": "C", "no_effect": "N", "undecided": "?", "not_engaged": "X", "not_trained": "U"}
CONTROL_LETTERS = "A/A"  # of what cannot act: whatever it seems to do is no finding
MAX_ROWS, MAX_COLUMNS = 24, 8

_Row = Mapping[str, Any]


def mark(row: _Row) -> str:
    """The letters of an effect: those of its verdict, or of an A/A control.

    Examples:
        >>> mark({"verdict": "pays", "control": False}), mark({"verdict": "pays", "control": True})
        ('P', 'A/A')
    """
    return CONTROL_LETTERS if row["control"] else LETTERS[row["verdict"]]


@dataclass(frozen=True)
class Overview:
    """Effects on time and accuracy, one row per group and one column per technique.

    Attributes:
        columns: What is on: each technique alone, then combinations.
        alone: Whether the columns are techniques alone; else they are averaged over all settings of the others.
        rows: (label of the group, one pair (effect on time, effect on accuracy) for each column, None where unknown).
        left_out: Number of groups that are not shown.
        shared: What all groups have in common.
    """

    columns: tuple[str, ...]
    alone: bool
    rows: tuple[tuple[str, tuple[tuple[_Row | None, _Row | None], ...]], ...]
    left_out: int
    shared: str


def overview(effects: Sequence[_Row]) -> Overview | None:
    """Chooses the rows of the overview, averages over everything first.

    Args:
        effects: The rows of report.json's `effects`.

    Returns:
        The overview; None where no effect on time is known.
    """
    timed = [r for r in effects if r["response"] == "train_seconds"]
    kinds = {r["kind"] for r in timed}
    alone = "simple" in kinds
    wanted = ("simple" if alone else "main", "combined")
    columns = list(dict.fromkeys(r["term"] for kind in wanted for r in timed if r["kind"] == kind))[:MAX_COLUMNS]
    if not columns:
        return None
    known = {
        (r["model"], r["dataset"], r["term"], r["response"]): r
        for r in effects
        if r["kind"] in wanted and r["response"] in ("train_seconds", "accuracy")
    }
    groups = list(dict.fromkeys((r["model"], r["dataset"]) for r in timed))
    names = GroupLabels.of(groups)
    groups = [g for g in groups if g == (ALL, ALL) or ALL not in g]
    if len(names.models) * len(names.datasets) == 1:  # an average of one group is the group
        groups = [g for g in groups if g != (ALL, ALL)] or groups
    groups.sort(key=lambda g: g != (ALL, ALL))
    rows = []
    for group in groups[:MAX_ROWS]:
        pairs = [tuple(known.get((*group, term, r)) for r in ("train_seconds", "accuracy")) for term in columns]
        rows.append((names.full(*group), tuple((p[0], p[1]) for p in pairs)))
    return Overview(tuple(columns), alone, tuple(rows), len(groups) - len(rows), names.shared)


@dataclass(frozen=True)
class Card:
    """Settings to use, and whom they are for.

    Attributes:
        cell, settings: What to use, see report.json's `answer.groups`.
        where: The groups, in words.
        groups: The answers that say so.
    """

    cell: str
    settings: str
    where: str
    groups: tuple[_Row, ...]


def gathered(answers: Sequence[_Row]) -> list[Card]:
    """Puts answers of the same settings together, the most common first.

    Args:
        answers: The rows of report.json's `answer.groups`.
    """
    names = GroupLabels.of((r["model"], r["dataset"]) for r in answers)
    same: dict[tuple[str, str], list[_Row]] = {}
    for row in answers:
        same.setdefault((row["cell"], row["settings"]), []).append(row)
    found = []
    for (cell, line), rows in sorted(same.items(), key=lambda item: -len(item[1])):
        labels = [names.full(r["model"], r["dataset"]) for r in rows]
        where = ", ".join(labels[:6]) + (f" and {len(labels) - 6} more" if len(labels) > 6 else "")
        if len(answers) > 1:
            every = len(rows) == len(answers)
            count = f"all {len(rows)}" if every else f"{len(rows)} of {len(answers)}"
            others = [names.full(r["model"], r["dataset"]) for r in answers if r not in rows]
            if len(rows) > len(others) > 0:  # shorter: whom it is not for
                more = f" and {len(others) - 6} more" if len(others) > 6 else ""
                where = f"same in {count}; differs: {', '.join(others[:6])}{more}"
            else:
                where = f"same in {count}" if every else f"{count}: {where}"
        found.append(Card(cell, line, where, tuple(rows)))
    return found
