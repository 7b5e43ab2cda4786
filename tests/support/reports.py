"""Reports of simulated studies."""

from __future__ import annotations

from pathlib import Path

from pipeline.analysis.effects import estimate
from pipeline.analysis.paper.audit import audit_paper
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.files import write_report
from pipeline.analysis.report.render import report_html, report_markdown
from pipeline.analysis.report.report import Report, build_report
from pipeline.tracking.study_data import StudyData


def report_of(study: StudyData, *, paper: bool = False, target_accuracy: float | None = None) -> Report:
    """Analyses a study with the defaults, as `ablate report` does."""
    effects = estimate(study, target_accuracy=target_accuracy)
    return build_report(study, effects, audit=audit_paper(study, effects) if paper else None)


def written_report(study: StudyData, folder: Path, *, paper: bool = False) -> Report:
    """Writes the report of a study into a folder."""
    report = report_of(study, paper=paper)
    write_report(report, folder)
    return report


def pages_of(report: Report) -> tuple[str, str]:
    """Renders report.html and report.md without figures, whose drawing takes most of a report's time."""
    document = report_document(report)
    return report_html(report, document, [], []), report_markdown(report, document)
