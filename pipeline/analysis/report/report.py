"""The report of a study: one self-contained HTML page, Markdown, JSON and two CSV files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.analysis import recommendation, time_budget
from pipeline.analysis import trust as trusting
from pipeline.analysis.anchors import Anchor, anchors
from pipeline.analysis.comparison import provenance
from pipeline.analysis.effects import Effects, estimate
from pipeline.tracking.study_data import StudyData

if TYPE_CHECKING:
    from pipeline.analysis.paper.audit import Audit
    from pipeline.analysis.report.drawing import Drawing


@dataclass(frozen=True)
class Report:
    """Everything the report says; :meth:`write` renders it.

    Attributes:
        study: The study as stored.
        effects: The estimates.
        trust: The trust checks.
        budgets: The time budget of every cell that has one.
        throughput: What every cell reaches of its device; empty where operations were not counted.
        reasons: One sentence per technique, model and dataset.
        recommendations: One per model and dataset.
        provenance: env name -> its values.
        audit: The audit of the paper, where it was asked for.
        memory_limit_mib: The limit that the recommendation keeps to.
    """

    study: StudyData
    effects: Effects
    trust: trusting.Trust
    budgets: list[time_budget.Budget]
    throughput: list[Anchor]
    reasons: list[time_budget.Reason]
    recommendations: list[recommendation.Recommendation]
    provenance: dict[str, tuple[str, ...]]
    audit: Audit | None = None
    memory_limit_mib: float | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def data(self) -> dict[str, Any]:
        """The content of report.json; a number that is unknown is None."""
        from pipeline.analysis.report.document import _document

        if "data" not in self._cache:
            self._cache["data"] = _document(self)
        document: dict[str, Any] = self._cache["data"]
        return document

    def drawings(self) -> list[Drawing]:
        """Draw the figures that the study has data for."""
        from pipeline.analysis.report import figures

        found = [
            figures.forest(self.effects),
            figures.interactions(self.effects),
            figures.budget_bars(self.budgets, self.effects),
            figures.pareto(self.effects),
            figures.curves(self.effects, self.study.history),
            figures.run_order_figure(self.trust),
        ]
        return [drawing for drawing in found if drawing is not None]

    def write(self, out: Path) -> list[Path]:
        """Write report.html, report.md, report.json, runs.csv and effects.csv, and the audit where there is
        one.

        Args:
            out: The folder; made if it is not there.

        Returns:
            The files written.

        Raises:
            OSError: The folder cannot be written.
        """
        from pipeline.analysis.report import render

        out.mkdir(parents=True, exist_ok=True)
        files = {
            "report.html": render.report_html(self),
            "report.md": render.report_markdown(self),
            "report.json": json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "runs.csv": self.study.runs.to_csv(index=False),
            "effects.csv": self.effects.table.to_csv(index=False),
        }
        if self.audit is not None:
            files |= self.audit.files()
        written = []
        for name, content in files.items():
            path = out / name
            path.write_text(content, encoding="utf-8")
            written.append(path)
        return written


def build_report(
    study: StudyData,
    *,
    memory_limit_mib: float | None = None,
    margin: float = 0.01,
    accuracy_margin_points: float = 1.0,
    confidence: float = 0.95,
    paper: bool = False,
    inert_techniques: frozenset[str] | None = None,
) -> Report:
    """Analyse a study for its report.

    Args:
        study: The study as the tracking store gives it.
        memory_limit_mib: Largest peak GPU memory of a recommended cell; None for no limit.
        margin: Equivalence margin of ratios.
        accuracy_margin_points: Equivalence and non-inferiority margin of accuracy and F1, percentage points.
        confidence: Of the intervals.
        paper: Add the audit of the paper.
        inert_techniques: Techniques that cannot act on the study's devices; None finds them.

    Returns:
        The report; it has its notes even where nothing finished.

    Raises:
        ValueError: A margin or the confidence is out of range.
    """
    effects = estimate(
        study,
        margin=margin,
        accuracy_margin_points=accuracy_margin_points,
        confidence=confidence,
        inert_techniques=inert_techniques,
    )
    budgets = time_budget.budgets(effects)
    audit = None
    if paper:
        from pipeline.analysis.paper.audit import audit as run_audit

        audit = run_audit(study, effects)
    return Report(
        study,
        effects,
        trusting.examine(effects.study, effects.inert),
        budgets,
        anchors(effects),
        time_budget.reasons(effects, budgets),
        recommendation.recommend(effects, study, memory_limit_mib),
        provenance(study),
        audit,
        memory_limit_mib,
    )
