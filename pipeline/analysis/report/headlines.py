"""The answer in words: one sentence per technique."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pipeline.analysis.effects import Effects
from pipeline.analysis.pooling import ALL
from pipeline.analysis.report.report import Report

VERDICT_WORDS = {"pays": "pays", "costs": "costs", "no_effect": "no effect", "undecided": "undecided"}


def headline_rows(effects: Effects) -> pd.DataFrame:
    """Picks the effects on time that answer the question: of each technique and of all, at the widest pooling."""
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
    """Says one effect on the training time in words."""
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
    """Says the answer in one sentence per technique."""
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
    """Returns the terminal summary: the answer, the recommendation, and the cautions."""
    counts = report.effects.study.runs["outcome"].value_counts()
    parts = ", ".join(f"{n} {name}" for name, n in counts.items()) or "no runs"
    lines = [f"study {report.study.name}: {parts}, {report.effects.study.n_blocks} blocks"]
    lines += [f"  {line}" for line in headlines(report.effects)[:24]]
    for advice in report.recommendations[:12]:
        line = advice.set_line or "(keep the baseline)"
        lines.append(f"  {advice.model} / {advice.dataset}: {advice.cell}: {line}")
    lines += [f"  note: {note}" for note in report.effects.notes]
    lines += [f"  caution: {alarm}" for alarm in report.trust.alarms]
    # Control characters in a stored name could drive the terminal.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
