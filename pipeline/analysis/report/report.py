"""The report of a study: one self-contained HTML page, Markdown, JSON and two CSV files."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.analysis import recommendation as recommending
from pipeline.analysis import time_budget as why
from pipeline.analysis import trust as trusting
from pipeline.analysis.anchors import Anchor, anchors, fastest
from pipeline.analysis.comparison import provenance
from pipeline.analysis.effects import Effects, estimate
from pipeline.analysis.frame import StudyData
from pipeline.analysis.pooling import ALL

if TYPE_CHECKING:
    from pipeline.analysis.paper.audit import Audit
    from pipeline.analysis.report.drawing import Drawing

VERDICT_WORDS = {"pays": "pays", "costs": "costs", "no_effect": "no effect", "undecided": "undecided"}
MAX_TABLE_ROWS = 240  # of a table in the page; the CSV files have every row


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
    budgets: list[why.Budget]
    throughput: list[Anchor]
    reasons: list[why.Reason]
    recommendations: list[recommending.Recommendation]
    provenance: dict[str, tuple[str, ...]]
    audit: Audit | None = None
    memory_limit_mib: float | None = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def data(self) -> dict[str, Any]:
        """The content of report.json; a number that is unknown is None."""
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
            figures.run_order(self.trust),
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
            "report.html": render.html(self),
            "report.md": render.markdown(self),
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


def build(
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
    budgets = why.budgets(effects)
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
        why.reasons(effects, budgets),
        recommending.recommend(effects, study, memory_limit_mib),
        provenance(study),
        audit,
        memory_limit_mib,
    )


def clean(value: Any) -> Any:
    """Make a value fit for strict JSON: NaN and infinity become None, NumPy scalars and timestamps plain
    values.
    """
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean(v) for v in value]
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a frame into plain records for JSON and templates."""
    return [clean(row) for row in frame.to_dict("records")]


def effect_records(effects: Effects) -> list[dict[str, Any]]:
    """Give the rows of effects.csv with what else a reader may want."""
    if effects.table.empty:
        return []
    extra = effects.details[["p", "method", "further_blocks", "non_inferior", "control", "note", "runs"]]
    return records(pd.concat([effects.table, extra], axis=1))


def _document(report: Report) -> dict[str, Any]:
    """Assemble report.json."""
    effects, trust = report.effects, report.trust
    runs = effects.study.runs
    return {
        "study": report.study.name,
        "runs": len(runs),
        "blocks": int(runs["block"].nunique()) if len(runs) else 0,
        "techniques": [f.name for f in effects.study.factors],
        "last_end": clean(runs["end"].max()) if len(runs) else None,
        "options": asdict(effects.options) | {"memory_limit_mib": report.memory_limit_mib},
        "notes": list(effects.notes),
        "aliases": list(effects.aliases),
        "controls": sorted(effects.inert),
        "effects": effect_records(effects),
        "cells": records(effects.cells),
        "outcomes": records(effects.outcomes),
        "recommendations": [clean(asdict(r)) for r in report.recommendations],
        "why": [clean(asdict(r)) for r in report.reasons],
        "budgets": [clean(asdict(b)) for b in report.budgets],
        "throughput": [clean(asdict(a)) for a in report.throughput],
        "fastest": fastest(report.throughput),
        "trust": {
            "drift": clean(asdict(trust.drift)) if trust.drift else None,
            "drift_by_block": {k: clean(asdict(v)) for k, v in trust.drift_by_block.items()},
            "control": clean(asdict(trust.control)) if trust.control else None,
            "control_spread": clean(trust.control_spread),
            "control_range": clean([trust.control_low, trust.control_high]),
            "sentinel": clean(asdict(trust.sentinel)) if trust.sentinel else None,
            "sentinel_spread": clean(trust.sentinel_spread),
            "tainted": records(trust.tainted),
            "alarms": list(trust.alarms),
        },
        "batchnorm_models": why.batchnorm_models(effects),
        "provenance": {k: list(v) for k, v in report.provenance.items()},
        "audit": report.audit.data() if report.audit is not None else None,
    }


def headline_rows(effects: Effects) -> pd.DataFrame:
    """Pick the effects on time that answer the question: each technique, and all together, at the widest
    pooling.
    """
    table = effects.table
    if table.empty:
        return table
    timed = table[table["response"].eq("train_seconds") & table["kind"].isin(["main", "combined", "synergy"])]
    for wanted in ((ALL, ALL), (ALL, None), (None, ALL), (None, None)):
        at = pd.Series(True, index=timed.index)
        for column, value in zip(("model", "dataset"), wanted, strict=True):
            if value is not None:
                at &= timed[column].eq(value)
        if at.any():
            return timed[at]
    return timed


def headline(row: dict[str, Any], control: bool, further: float | None) -> str:
    """Say one effect on the training time in words."""
    if row["estimate"] is None or math.isnan(row["estimate"]):
        return f"{row['term']} ({row['kind']}): no estimate, a cell that it needs has no data."
    speed = 1 / row["estimate"]
    span = ""
    if row["low"] is not None and not math.isnan(row["low"]):
        span = f" [{1 / row['high']:.3f}, {1 / row['low']:.3f}]"
    kind = {"main": "", "combined": " together", "synergy": " synergy"}[row["kind"]]
    said = f"{row['term']}{kind}: {speed:.3f}x as fast{span}, {VERDICT_WORDS[row['verdict']]}"
    if row["kind"] == "synergy":
        said = f"{row['term']}{kind}: {speed:.3f}x what the single speed-ups multiply to{span}"
        said += f", {VERDICT_WORDS[row['verdict']]}"
    if control:
        said += " (an A/A control here: any effect would be noise)"
    elif row["verdict"] == "undecided":
        if further is None or math.isnan(further):
            said += "; more blocks will hardly decide it"
        else:
            said += f"; about {further:.0f} more {'block' if round(further) == 1 else 'blocks'} would decide it"
    return said + "."


def headlines(effects: Effects) -> list[str]:
    """Say the answer in one sentence per technique."""
    rows = headline_rows(effects)
    found = []
    details = effects.details.loc[rows.index].to_dict("records") if len(rows) else []
    for row, detail in zip(rows.to_dict("records"), details, strict=True):
        words = headline(
            {str(k): v for k, v in row.items()},
            bool(detail["control"]),
            float(detail["further_blocks"]),
        )
        one_group = rows[["model", "dataset"]].drop_duplicates().shape[0] == 1
        found.append(words if one_group else f"{row['model']} / {row['dataset']}: {words}")
    return found


def summary_lines(report: Report) -> list[str]:
    """Give the terminal summary: the answer, the recommendation, and the cautions."""
    counts = report.effects.study.runs["outcome"].value_counts()
    parts = ", ".join(f"{n} {name}" for name, n in counts.items()) or "no runs"
    lines = [f"study {report.study.name}: {parts}, {report.data['blocks']} blocks"]
    lines += [f"  {line}" for line in headlines(report.effects)[:24]]
    for advice in report.recommendations[:12]:
        line = advice.set_line or "(keep the baseline)"
        lines.append(f"  {advice.model} / {advice.dataset}: {advice.cell}: {line}")
    lines += [f"  note: {note}" for note in report.effects.notes]
    lines += [f"  caution: {alarm}" for alarm in report.trust.alarms]
    # Control characters in a stored name could drive the terminal.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
