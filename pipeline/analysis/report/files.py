"""The files of a report: the one place that writes, from text that the other modules make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipeline.analysis.report.audit_files import audit_texts, draw_questions
from pipeline.analysis.report.conditions import conditions
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.drawing import Drawing, own_style
from pipeline.analysis.report.figure_files import figure_files
from pipeline.analysis.report.figures import draw_figures
from pipeline.analysis.report.latex import latex_tables
from pipeline.analysis.report.methods import methods_text
from pipeline.analysis.report.overview import overview
from pipeline.analysis.report.render import csv_text, report_html, report_markdown
from pipeline.analysis.report.report import Report
from pipeline.design.names import CLAIM_TAG, EARLIER_HEARTBEAT_TAG, HEARTBEAT_TAG, KEY_TAG, OWNER_TAG
from pipeline.errors import first_line
from pipeline.paths import write_atomically

DETAILS = ("p", "method", "further_blocks", "not_engaged", "note")  # of an effect, behind the columns of the table


def write_report(
    report: Report, folder: Path, failed: Callable[[str], None] = lambda _: None, *, figures: bool = False
) -> list[Path]:
    """Writes the report as report.html, .md and .json, its tables as CSV and LaTeX, and a paragraph on the methods.

    The audit's files are there where there is one.

    Args:
        report: The report.
        folder: Where the files go; made if it is not there.
        failed: Told, in a line, what could not be drawn; everything else is written all the same.
        figures: Whether the figures are written as SVG, PNG and PDF, too, into a folder `figures`.

    Returns:
        The files written.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = report_document(report)
    drawings, questions = _drawn(report, failed)
    how = conditions(report)
    files: dict[str, str | bytes] = {
        "report.md": report_markdown(report, document),
        "report.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "runs.csv": csv_text(_told(report.study.runs)),
        "effects.csv": csv_text(report.effects.table.join(report.effects.details.reindex(columns=list(DETAILS)))),
        "tables.tex": latex_tables(document, overview(document["effects"])),
        "methods.md": methods_text(report, how),
        "report.html": report_html(report, document, drawings, questions),
    }
    if report.audit is not None:
        files |= audit_texts(report.audit, document["audit"], questions)
    if figures:
        with own_style():
            drawn = figure_files([*drawings, *questions])
        files |= {f"figures/{name}": content for name, content in drawn.items()}
        (folder / "figures").mkdir(exist_ok=True)
    written = []
    for name, content in files.items():
        path = folder / name
        write_atomically(path, content)
        written.append(path)
    return written


def _told(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without empty columns and without the marks that controllers leave for each other."""
    marks = (HEARTBEAT_TAG, EARLIER_HEARTBEAT_TAG, OWNER_TAG, CLAIM_TAG, KEY_TAG)
    kept = [c for c in runs.columns if not str(c).startswith(tuple(f"tags.{mark}" for mark in marks))]
    return runs[kept].dropna(axis="columns", how="all") if len(runs) else runs[kept]


def _drawn(report: Report, failed: Callable[[str], None]) -> tuple[list[Drawing], list[Drawing]]:
    """Draws the report's figures and the audit's; the numbers do not depend on it."""
    try:
        with own_style():
            return draw_figures(report, failed), draw_questions(report.audit) if report.audit is not None else []
    except Exception as error:
        failed(f"{type(error).__name__}: {first_line(error)}")
        return [], []
