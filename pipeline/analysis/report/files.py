"""The files of a report: the one place that writes, from text that the other modules make."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.analysis.report.audit_files import audit_texts, draw_questions
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.drawing import own_style
from pipeline.analysis.report.figures import draw_figures
from pipeline.analysis.report.render import report_html, report_markdown
from pipeline.analysis.report.report import Report
from pipeline.paths import write_atomically


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes report.html, report.md, report.json, runs.csv and effects.csv, and the audit's files where there is one.

    Args:
        report: The report.
        folder: Where the files go; made if it is not there.

    Returns:
        The files written.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = report_document(report)
    with own_style():
        drawings = draw_figures(report)
        questions = draw_questions(report.audit) if report.audit is not None else []
    files = {
        "report.html": report_html(report, document, drawings, questions),
        "report.md": report_markdown(report, document),
        "report.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "runs.csv": report.study.runs.to_csv(index=False),
        "effects.csv": report.effects.table.to_csv(index=False),
    }
    if report.audit is not None:
        files |= audit_texts(report.audit, document["audit"], questions)
    written = []
    for name, content in files.items():
        path = folder / name
        write_atomically(path, content)
        written.append(path)
    return written
