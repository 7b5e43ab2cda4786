"""Figures and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from claims import Claim, Ours

from pipeline.analysis.report.headlines import VERDICT_WORDS


def escaped(text: object) -> str:
    """Makes text fit for one cell of a table: no line ends, no bars, nothing that starts HTML."""
    flat = "".join(c if c.isprintable() else " " for c in str(text))
    return re.sub(r"([|\\`<])", r"\\\1", flat)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> list[str]:
    """Makes a table; the columns in `right` hold numbers. Cells are escaped where they are made."""
    ruler = ["---:" if column in right else "---" for column in range(len(head))]
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in (head, ruler, *rows)]


def number(value: float, unit: str) -> str:
    """Formats a figure: ratios to three decimals, small figures to three digits, large ones without decimals."""
    if unit == "ratio":
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def spread(low: float | None, high: float | None, unit: str) -> str:
    """Formats an interval; empty where there is none."""
    if low is None or high is None:
        return ""
    return f" [{number(low, unit)}, {number(high, unit)}]"


def ours(found: Ours, unit: str) -> str:
    """Formats our figure with its interval, our verdict on it, blocks and batch size."""
    text = f"{number(found.estimate, unit)}{spread(found.low, found.high, unit)}{_said(unit)}"
    if found.verdict:
        text += f" {escaped(VERDICT_WORDS.get(found.verdict, found.verdict))}"
    notes = [] if found.blocks is None else [f"{found.blocks} block" + ("" if found.blocks == 1 else "s")]
    notes += ["no interval"] if found.low is None else []
    notes += [f"batch {escaped(found.batch)}"] if found.batch else []
    return f"{text} ({', '.join(notes)})"


def published(claim: Claim) -> str:
    """Formats the public figure, with the range that agrees with it."""
    if claim.rule == "none":
        return claim.public.says
    if claim.rule != "range":
        return f"{claim.public.says}; agrees: {claim.rule.replace('_', ' ')}"
    low, high = (None if bound is None else f"{bound:,g}" for bound in (claim.public.low, claim.public.high))
    span = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return f"{claim.public.says}{_said(claim.unit)}; agrees: {span}"


def _said(unit: str) -> str:
    return "" if unit == "ratio" else f" {unit}"
