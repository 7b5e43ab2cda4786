"""The figures of the audit: one per open question that the study answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.analysis.paper.audit import Question
from pipeline.analysis.report import drawing
from pipeline.analysis.report.drawing import FG, GRID, MARKERS, SERIES, Drawing, plain
from pipeline.analysis.responses import BY_NAME, POINTS

_MAX_ROWS = 30
_LEVEL = {
    "val_accuracy": "validation accuracy",
    "accuracy": "test accuracy",
    "train_seconds": "training time, s",
}


def _axis(rows: list[dict[str, Any]], response: str) -> tuple[str, float | None]:
    """Names the axis of a response and its line of no effect; levels have none."""
    if "sd" in rows[0]:
        return _LEVEL[response], None
    known = BY_NAME[response]
    return (f"{known.title}, points", 0.0) if known.unit == POINTS else (f"{known.title}, on / off", 1.0)


def draw_question(question: Question) -> Drawing | None:
    """Draws a question's table: estimates with intervals, one panel per response; None for an empty table."""
    responses = list(dict.fromkeys(row["response"] for row in question.table))[:3]
    if not responses:
        return None
    names: dict[str, None] = {}
    for row in question.table:
        names |= {_label(row): None}
    labels = list(names)[:_MAX_ROWS]
    left = min(drawing.text_width(labels) + 0.2, 5.0)
    size = 1.0 + 0.24 * len(labels)
    fig, axes = drawing.figure(drawing.WIDTH, size, 1, len(responses), left=left, gap=(0.2, 0.0), sharey=True)
    spoken = []
    for i, (ax, response) in enumerate(zip(axes, responses, strict=True)):
        rows = [r for r in question.table if r["response"] == response and _label(r) in labels]
        y = np.array([len(labels) - 1 - labels.index(_label(r)) for r in rows])
        value = np.array([r["estimate"] for r in rows], dtype=float)
        low, high = (np.array([r[k] for r in rows], dtype=float) for k in ("low", "high"))
        title, null = _axis(rows, response)
        if null is not None:
            ax.axvline(null, color=FG, linewidth=0.9)
        ax.hlines(y, low, high, color=SERIES[i], linewidth=1.6)
        ax.plot(value, y, MARKERS[i], color=SERIES[i], markersize=5, linestyle="none")
        ax.set_xlabel(title)
        ax.grid(axis="x", color=GRID, linewidth=0.5)
        ax.set_ylim(-0.8, len(labels) - 0.2)
        ax.locator_params(axis="x", nbins=4)
        spoken += [f"{title}, {_label(r)}: {r['estimate']:.4g}{_span(r)}" for r in rows]
    axes[0].set_yticks(range(len(labels)), [plain(name) for name in reversed(labels)])
    key, title = f"audit-{question.key.lower()}", f"{question.key}. {question.question}"
    alt = "; ".join(spoken)
    caption = f"{question.key}: estimates with 95 % intervals."
    if len(names) > len(labels):
        caption += f" The first {len(labels)} of {len(names)} rows; audit_{question.key.lower()}.csv has them all."
    return drawing.drawn(fig, key, title, alt, caption)


def _label(row: dict[str, Any]) -> str:
    kind = f" ({row['kind']})" if row.get("kind") in ("combined", "synergy") else ""
    return f"{row['term']}{kind}, {row['model']} / {row['dataset']}"


def _span(row: dict[str, Any]) -> str:
    return "" if math.isnan(row["low"]) else f" ({row['low']:.4g} to {row['high']:.4g})"
