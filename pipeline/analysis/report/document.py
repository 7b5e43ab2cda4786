"""report.json: a report as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from pipeline.analysis import time_budget
from pipeline.analysis.anchors import fastest
from pipeline.analysis.effects import Effects
from pipeline.analysis.report.conditions import conditions
from pipeline.analysis.report.headlines import answer_document, answer_text
from pipeline.analysis.report.report import Report


def clean(value: Any) -> Any:
    """Makes a value fit for strict JSON.

    NaN and infinity become None, NumPy scalars and timestamps plain values, tuples and sets lists.
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
    """Turns a frame into plain records for JSON and templates."""
    return [clean(row) for row in frame.to_dict("records")]


def effect_records(effects: Effects) -> list[dict[str, Any]]:
    """Returns the rows of effects.csv with what else a reader may want."""
    if effects.table.empty:
        return []
    extra = effects.details[
        ["p", "method", "further_blocks", "non_inferior", "control", "not_engaged", "not_trained", "note", "runs"]
    ]
    return records(pd.concat([effects.table, extra], axis=1))


def report_document(report: Report) -> dict[str, Any]:
    """Assembles the content of report.json; a number that is unknown is None."""
    effects, trust = report.effects, report.trust
    runs = effects.study.runs
    return {
        "study": report.study.name,
        "runs": len(runs),
        "blocks": effects.study.n_blocks,
        "techniques": [f.name for f in effects.study.factors],
        "last_end": clean(runs["end"].max()) if len(runs) else None,
        "options": asdict(effects.options) | {"memory_limit_mib": report.memory_limit_mib},
        "notes": list(effects.notes),
        "aliases": list(effects.aliases),
        "controls": sorted(effects.inert),
        "effects": effect_records(effects),
        "cells": records(effects.cells),
        "outcomes": records(effects.outcomes),
        "answer": clean(answer_document(report.answer, answer_text(report.answer, effects))),
        "recommendations": [clean(asdict(r)) for r in report.recommendations],
        "machines": [clean(asdict(m)) for m in report.machines],
        "why": [clean(asdict(r)) for r in report.reasons],
        "break_even": [clean({**asdict(each), "words": str(each)}) for each in report.break_evens],
        "engagement": [
            clean({**asdict(each), "words": each.words, "missing_words": each.missing_words})
            for each in report.engagement
        ],
        "budgets": [clean(asdict(b)) for b in report.budgets],
        "throughput": [clean(asdict(a)) for a in report.throughput],
        "fastest": fastest(report.throughput),
        "trust": {
            "drift": clean(asdict(trust.drift)) if trust.drift else None,
            "drift_unknown": trust.drift_unknown,
            "drift_by_block": {k: clean(asdict(v)) for k, v in trust.drift_by_block.items()},
            "control": clean(asdict(trust.control)) if trust.control else None,
            "control_by_group": {k: clean(asdict(v)) for k, v in trust.control_by_group.items()},
            "control_spread": clean(trust.control_spread),
            "control_range": clean([trust.control_low, trust.control_high]),
            "sentinel": clean(asdict(trust.sentinel)) if trust.sentinel else None,
            "sentinel_spread": clean(trust.sentinel_spread),
            "tainted": records(trust.tainted),
            "alarms": list(trust.alarms),
        },
        "batchnorm_models": time_budget.batchnorm_models(effects),
        "conditions": conditions(report).document(),
        "provenance": {k: list(v) for k, v in report.provenance.items()},
        "audit": clean(asdict(report.audit)) if report.audit is not None else None,
    }
