"""Rendering of the report's templates; everything that is shown is escaped for its format."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.analysis.anchors import tera
from pipeline.analysis.pooling import ALL
from pipeline.analysis.report.drawing import Drawing
from pipeline.analysis.report.headlines import VERDICT_WORDS, machine_lines
from pipeline.analysis.report.report import Report
from pipeline.analysis.responses import BY_NAME
from pipeline.design.names import BUDGET_PHASES
from pipeline.shown import printable, printable_lines, spreadsheet_cell

# Shares of what a device could reach -> the columns' titles.
LIMITS = {"of_achieved": "of achieved peak", "of_peak": "of data sheet"}
MAX_TABLE_ROWS = 240  # of a table in the page; the CSV files have every row
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARKDOWN = re.compile(r"([\\`*_\[\]|<>#$])")


def markdown_text(value: object) -> str:
    """Escapes text for Markdown, inside tables too."""
    return _MARKDOWN.sub(r"\\\1", printable(str(value).replace("\r", " ").replace("\n", " ")))


def csv_text(frame: pd.DataFrame) -> str:
    """Writes a table as CSV in which no text is a formula for a spreadsheet, or acts on a terminal."""
    plain = frame.copy()
    for place, kind in enumerate(plain.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            plain.isetitem(place, plain.iloc[:, place].map(_csv_cell).to_numpy(dtype=object))
    return plain.set_axis([_csv_cell(name) for name in plain.columns], axis=1).to_csv(index=False)


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):  # a parameter's number is text in the store
        return value
    return spreadsheet_cell(printable(value))


def number_text(value: Any, digits: int = 3) -> str:
    """Writes a number; an unknown one is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}"


def percent_text(value: float | None) -> str:
    """Writes a fraction in percent; an unknown one is a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def measure_text(value: Any) -> str:
    """Writes a measured quantity with four significant digits; an unknown one is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"


def effect(row: dict[str, Any]) -> str:
    """Writes an estimate in its unit."""
    if row["estimate"] is None:
        return "–"
    return f"{row['estimate']:.3f}" if row["unit"] == "ratio" else f"{row['estimate']:+.2f}"


def interval_text(row: dict[str, Any]) -> str:
    """Writes an interval in its unit."""
    if row.get("low") is None:
        return "–"
    digits, sign = (3, "") if row["unit"] == "ratio" else (2, "+")
    return f"{row['low']:{sign}.{digits}f} to {row['high']:{sign}.{digits}f}"


def p_text(value: float | None) -> str:
    """Writes a p-value."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _shown(value: Any) -> Any:
    """What a template shows; `Markup` is ours, or has been escaped."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable_lines(value)


def _environment(autoescape: bool) -> Environment:
    env = Environment(
        loader=PackageLoader("pipeline.analysis.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    env.filters |= {
        "number": number_text,
        "measure": measure_text,
        "percent": percent_text,
        "tera": lambda value: "–" if value is None else tera(value),
        "effect": effect,
        "interval": interval_text,
        "p": p_text,
        "verdict": VERDICT_WORDS.__getitem__,
        "response": lambda name: BY_NAME[name].title,
        "md": markdown_text,
    }
    return env


def _tables(document: dict[str, Any]) -> dict[str, Any]:
    """Selects the rows of each table."""
    rows = document["effects"]
    main = [r for r in rows if r["kind"] == "main"]
    joint = [r for r in rows if r["kind"] in ("simple", "combined", "synergy") and r["response"] == "train_seconds"]
    crossed = [r for r in rows if r["kind"] == "interaction" and r["response"] == "train_seconds"]
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in document["cells"]:
        key = (row["model"], row["dataset"], row["cell"])
        cells.setdefault(key, {"model": key[0], "dataset": key[1], "cell": key[2], "of": {}})["of"][row["response"]] = (
            row
        )
    measured = [name for name in BY_NAME if any(name in c["of"] for c in cells.values())]
    broken = [o for o in document["outcomes"] if o["finished"] < o["runs"]]
    tables = {
        "main": main,
        "joint": joint,
        "crossed": crossed,
        "cells": list(cells.values()),
        "broken": broken,
        "machines": document["machines"],
        "budgets": document["budgets"],
        "throughput": document["throughput"],
        "engagement": document["engagement"],
    }
    total = {name: len(table) for name, table in tables.items()}
    if total["main"] > MAX_TABLE_ROWS:  # pooled rows first, they say most
        tables["main"] = sorted(main, key=lambda r: (r["model"] != ALL) + (r["dataset"] != ALL))
    shown = {name: table[:MAX_TABLE_ROWS] for name, table in tables.items()}
    return {"tables": shown, "total": total, "measured": measured}


def context(report: Report, document: dict[str, Any]) -> dict[str, Any]:
    """Collects what both templates show."""
    options = report.effects.options
    counts = report.effects.study.runs["outcome"].value_counts()
    return {
        "d": document,
        "machine_lines": machine_lines(report),
        "counts": {str(k): int(v) for k, v in counts.items()},
        "level": f"{100 * options.confidence:g} %",
        "margin": f"{100 * options.margin:g} %",
        "points": f"{options.accuracy_margin_points:g}",
        "percent": trust_percent,
        "phases": BUDGET_PHASES,
        "launches_known": any(b.launch_bound is not None for b in report.budgets),
        "limits": [name for name in LIMITS if any(getattr(a, name) is not None for a in report.throughput)],
        "limit_words": LIMITS,
        **_tables(document),
    }


def trust_percent(part: dict[str, Any] | None) -> str:
    """Writes a ratio of the trust checks as a change with its interval."""
    if part is None:
        return "–"
    said = f"{100 * (part['value'] - 1):+.2f} %"
    if part["low"] is not None:
        said += f" ({100 * (part['low'] - 1):+.2f} to {100 * (part['high'] - 1):+.2f} %)"
        said += {0: "", 1: ", over the pairs of one block"}.get(part["blocks"], f", over {part['blocks']} blocks")
    return said


def _drawn(drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    """Marks the SVG of figures as safe: it is made here, from data and escaped text."""
    return [{"title": d.title, "svg": Markup(d.svg), "caption": d.caption} for d in drawings]


def report_html(
    report: Report, document: dict[str, Any], figures: Sequence[Drawing], audit_figures: Sequence[Drawing]
) -> str:
    """Renders report.html: one file, no script, no outside reference.

    Args:
        report: The report.
        document: The same as plain data, from `report_document`.
        figures: The report's figures.
        audit_figures: The audit's figures; empty without an audit.
    """
    drawn = {"figures": _drawn(figures), "audit_figures": _drawn(audit_figures)}
    return _environment(True).get_template("report.html.j2").render(context(report, document) | drawn)


def report_markdown(report: Report, document: dict[str, Any]) -> str:
    """Renders report.md."""
    body = _environment(False).get_template("report.md.j2").render(context(report, document))
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def audit_markdown(data: dict[str, Any]) -> str:
    """Renders audit.md."""
    body = _environment(False).get_template("audit.md.j2").render(audit=data)
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
