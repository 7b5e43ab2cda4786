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
from pipeline.analysis.report.conditions import MAIN_FIELDS, Conditions, conditions
from pipeline.analysis.report.drawing import Drawing, ratio_text
from pipeline.analysis.report.headlines import VERDICT_WORDS, machine_lines
from pipeline.analysis.report.labels import GroupLabels
from pipeline.analysis.report.overview import LETTERS, gathered, mark, overview
from pipeline.analysis.report.report import Report
from pipeline.analysis.responses import BY_NAME, POINTS, RATIO
from pipeline.design.names import BUDGET_PHASES
from pipeline.shown import printable, printable_lines, spreadsheet_cell

# Shares of what a device could reach -> the columns' titles.
LIMITS = {"of_achieved": "of achieved peak", "of_peak": "of data sheet"}
# Responses that are shown as speed-ups, so that figures, tables and words have one direction -> how they are called.
SPEED_UPS = {"train_seconds": "training speed-up", "seconds_to_target": "speed-up to the target accuracy"}
UNITS = {
    "train_seconds": ", s",
    "seconds_to_target": ", s",
    "images_per_second": ", images/s",
    "gpu_peak_allocated_mib": ", MiB",
    "gpu_joules": ", J",
    "accuracy": ", %",
    "f1_macro": ", %",
}
_KINDS = {"simple": "alone", "combined": "together", "synergy": "synergy"}
SECTIONS = {
    "answer": "The answer",
    "overview": "Overview",
    "conditions": "How it was run",
    "why": "Why",
    "figures": "Figures",
    "effects": "Effects",
    "machines": "Several machines",
    "aliases": "Alias structure",
    "cells": "Every cell",
    "broken": "What did not finish",
    "trust": "Can it be trusted?",
    "audit": "Audit",
    "provenance": "Provenance and method",
}
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


def _on_scale(row: dict[str, Any], name: str) -> float | None:
    """A number of an effect as it is shown: a time as the speed-up (off / on), all else as it is."""
    value: float | None = row.get(name)
    return 1 / value if value and row.get("response") in SPEED_UPS else value


def effect(row: dict[str, Any], digits: int = 3) -> str:
    """Writes an estimate in its unit; one on a time as the speed-up."""
    value = _on_scale(row, "estimate")
    if value is None:
        return "–"
    return ratio_text(value, digits) if row["unit"] == "ratio" else f"{value:+.2f}"


def unit_text(row: dict[str, Any]) -> str:
    """The unit behind an estimate."""
    return "×" if row["unit"] == "ratio" else " pt"


def interval_text(row: dict[str, Any], digits: int = 3) -> str:
    """Writes an interval in its unit, that of a time as one of the speed-up."""
    if row.get("low") is None:
        return "–"
    ends = ("high", "low") if row.get("response") in SPEED_UPS else ("low", "high")
    shown = [value for value in (_on_scale(row, end) for end in ends) if value is not None]
    return " to ".join(ratio_text(v, digits) if row["unit"] == "ratio" else f"{v:+.2f}" for v in shown)


def quantity_text(name: str) -> str:
    """Says what an effect on a response is of, and in which direction."""
    if name in SPEED_UPS:
        return SPEED_UPS[name]
    return BY_NAME[name].title + (", on / off" if BY_NAME[name].unit == RATIO else ", points")


def level_title(name: str) -> str:
    """Names the level of a response with its unit."""
    return f"{BY_NAME[name].title}{UNITS.get(name, '')}"


def level_text(value: Any, name: str) -> str:
    """Writes the level of a response in its unit."""
    return measure_text(100 * value if BY_NAME[name].unit == POINTS and value is not None else value)


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
        "mark": mark,
        "number": number_text,
        "measure": measure_text,
        "percent": percent_text,
        "tera": lambda value: "–" if value is None else tera(value),
        "effect": effect,
        "unit": unit_text,
        "inverse": lambda value: "–" if not value else f"{1 / value:.3f}",
        "quantity": quantity_text,
        "level_title": level_title,
        "level": level_text,
        "kind": lambda kind: _KINDS.get(kind, kind),
        "count": lambda value: "–" if value is None else f"{value:,}",
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


def _grouped(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Puts main effects of one group together, averages first: (the group in words, its rows)."""
    names = GroupLabels.of((r["model"], r["dataset"]) for r in rows)
    many = len(names.models) * len(names.datasets) > 1
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: (r["model"] != ALL) + (r["dataset"] != ALL)):
        averages = ALL in (row["model"], row["dataset"])
        if averages and not many:  # of one group: its own numbers
            continue
        partly = averages and not row["model"] == row["dataset"] == ALL
        label = "averages over models or data sets" if partly else names.full(row["model"], row["dataset"])
        found.setdefault(
            f"average over all {len(names.models)} models and {len(names.datasets)} data sets"
            if label == "all"
            else label,
            [],
        ).append(row)
    return list(found.items())


def _conditions(conditions: Conditions) -> dict[str, Any]:
    """Selects the rows and columns of the table of what was read and trained."""
    fields = list(dict.fromkeys(name for values in conditions.own.values() for name in values))
    ordered = [name for name in MAIN_FIELDS if name in fields] + [name for name in fields if name not in MAIN_FIELDS]
    return {
        "c": conditions,
        "main_fields": MAIN_FIELDS,
        "own_labels": list(dict.fromkeys([*conditions.data, *conditions.own])),
        "own_columns": ordered[:12],
        "data_columns": list(dict.fromkeys(name for values in conditions.data.values() for name in values)),
    }


def _contents(shown: dict[str, Any], figures: bool) -> list[tuple[str, str]]:
    """Lists the sections that the page has: (id, words)."""
    document, tables = shown["d"], shown["tables"]
    absent = {
        "overview": shown["overview"] is None,
        "why": not (
            document["why"]
            or document["break_even"]
            or tables["budgets"]
            or tables["throughput"]
            or tables["engagement"]
        ),
        "figures": not figures,
        "effects": not tables["main"],
        "aliases": not document["aliases"],
        "audit": not document["audit"],
    } | {name: not tables[name] for name in ("machines", "cells", "broken")}
    return [(name, words) for name, words in SECTIONS.items() if not absent.get(name)]


def context(report: Report, document: dict[str, Any]) -> dict[str, Any]:
    """Collects what both templates show."""
    options, tables = report.effects.options, _tables(document)
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
        "letters": LETTERS,
        "used_verdicts": {r["verdict"] for r in document["effects"]},
        "overview": overview(document["effects"]),
        "advice": gathered(document["answer"]["groups"]),
        "main_groups": _grouped(tables["tables"]["main"]),
        **_conditions(conditions(report)),
        **tables,
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
    shown = context(report, document) | drawn
    page = _environment(True).get_template("report.html.j2").render(shown, contents=_contents(shown, bool(figures)))
    return re.sub(r"\n\s*\n+", "\n", page)


def report_markdown(report: Report, document: dict[str, Any]) -> str:
    """Renders report.md."""
    body = _environment(False).get_template("report.md.j2").render(context(report, document))
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def audit_markdown(data: dict[str, Any]) -> str:
    """Renders audit.md."""
    body = _environment(False).get_template("audit.md.j2").render(audit=data)
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
