"""The files of a report: the one place that writes, from text that the other modules make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.analysis.report.audit_files import audit_texts, draw_questions
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.drawing import Drawing, own_style
from pipeline.analysis.report.figures import draw_figures
from pipeline.analysis.report.render import csv_text, report_html, report_markdown
from pipeline.analysis.report.report import Report
from pipeline.errors import first_line
from pipeline.paths import write_atomically

DETAILS = ("p", "method", "further_blocks", "not_engaged", "note")  # of an effect, behind the columns of the table


def write_report(report: Report, folder: Path, failed: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Writes report.html, report.md, report.json, runs.csv and effects.csv, and the audit's files where there is one.

    Args:
        report: The report.
        folder: Where the files go; made if it is not there.
        failed: Told, in a line, what could not be drawn; everything else is written all the same.

    Returns:
        The files written.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = report_document(report)
    drawings, questions = _drawn(report, failed)
    files = {
        "report.md": report_markdown(report, document),
        "report.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "runs.csv": csv_text(report.study.runs),
        "effects.csv": csv_text(report.effects.table.join(report.effects.details.reindex(columns=list(DETAILS)))),
        "report.html": report_html(report, document, drawings, questions),
    }
    if report.audit is not None:
        files |= audit_texts(report.audit, document["audit"], questions)
    written = []
    for name, content in files.items():
        path = folder / name
        write_atomically(path, content)
        written.append(path)
    return written


def _drawn(report: Report, failed: Callable[[str], None]) -> tuple[list[Drawing], list[Drawing]]:
    """Draws the report's figures and the audit's; the numbers do not depend on it."""
    try:
        with own_style():
            return draw_figures(report, failed), draw_questions(report.audit) if report.audit is not None else []
    except Exception as error:
        failed(f"{type(error).__name__}: {first_line(error)}")
        return [], []
