"""The audit's own files: the text, a table of the claims, and a table and a figure per question answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from pipeline.analysis.paper.audit import Audit
from pipeline.analysis.report.audit_figures import draw_question
from pipeline.analysis.report.drawing import Drawing
from pipeline.analysis.report.figure_files import standalone_svg
from pipeline.analysis.report.render import audit_markdown, csv_text


def draw_questions(audit: Audit) -> list[Drawing]:
    """Draws one figure per open question that the study answers."""
    drawings = [draw_question(question) for question in audit.questions]
    return [drawing for drawing in drawings if drawing is not None]


def audit_texts(audit: Audit, document: dict[str, Any], drawings: Sequence[Drawing]) -> dict[str, str]:
    """Writes the audit as texts.

    Args:
        audit: The audit.
        document: The same as plain data, as report.json has it.
        drawings: Its figures, from `draw_questions`.

    Returns:
        File name -> content: audit.md, audit_claims.csv, and a CSV and an SVG per question that is answered.
    """
    claims = [{k: v for k, v in asdict(check).items() if k != "ours"} for check in audit.findings]
    texts = {
        "audit.md": audit_markdown(document),
        "audit_claims.csv": csv_text(pd.DataFrame(claims)),
    }
    for question in audit.questions:
        if question.table:
            texts[f"audit_{question.key.lower()}.csv"] = csv_text(pd.DataFrame(question.table))
    return texts | {f"audit_{d.key.removeprefix('audit-')}.svg": standalone_svg(d.svg) for d in drawings}
