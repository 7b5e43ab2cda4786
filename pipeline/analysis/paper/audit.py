"""The audit of the paper: its claims beside our measurement of the same thing, its open questions answered.

The facts about arXiv 2312.10024 and its published code are data here. What stands beside them is computed
from the study at hand; where the study did not measure it, the audit says so and names the one command that
would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipeline.analysis import student_t
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, text
from pipeline.analysis.paper.claims import CLAIMS, CONFOUNDS, Claim
from pipeline.analysis.pooling import ALL
from pipeline.design.names import RECIPE_PARAM, VAL_ACCURACY
from pipeline.tracking.study_data import StudyData

NOT_MEASURED = "not measured in this study"


@dataclass(frozen=True)
class ClaimCheck:
    """A claim beside our measurement.

    Attributes:
        key: Short name of the claim.
        claim: What the paper or its repository says.
        caveat: What the published code shows about it.
        measured: Our measurement in words.
        ours: Our measurement as numbers; empty if the study did not measure it.
    """

    key: str
    claim: str
    caveat: str
    measured: str
    ours: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """An open question of the paper.

    Attributes:
        key: Short name, `Q1` or `C2`.
        question: The question.
        command: The command line that would answer it.
        answer: How many estimates this study has.
        table: The estimates; empty if this study does not answer it.
    """

    key: str
    question: str
    command: str
    answer: str
    table: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Audit:
    """The audit of the paper against one study.

    Attributes:
        findings: Every claim beside our measurement.
        confounds: What keeps the paper's comparison from showing its claims.
        questions: The paper's open questions, answered as far as the study does.
    """

    findings: tuple[ClaimCheck, ...]
    confounds: tuple[str, ...]
    questions: tuple[Question, ...]


def _number(row: Any) -> dict[str, Any]:
    """Takes the numbers of an effect row."""
    names = (
        "model",
        "dataset",
        "response",
        "term",
        "kind",
        "estimate",
        "low",
        "high",
        "unit",
        "verdict",
        "blocks",
    )
    return {name: getattr(row, name) for name in names}


def _cell_numbers(effects: Effects, claim: Claim) -> list[dict[str, Any]]:
    """Measures a claim about a level, for the baseline and for all techniques together: means with t intervals."""
    runs = effects.study.runs
    runs = runs[runs["outcome"].eq("finished") & runs["dataset"].eq(claim.dataset)]
    runs = runs[runs["model"].str.lower().str.contains(claim.model, regex=False)]
    together = "+".join(f.term(f.levels[-1]) for f in effects.study.factors if f.levels)
    column, scale = ("accuracy", 1.0) if claim.quantity == "accuracy" else ("train_seconds", 1 / 3600)
    found = []
    for (model, cell), part in runs[runs["cell"].isin([BASELINE, together])].groupby(["model", "cell"], sort=False):
        values = part[column].dropna() * scale
        if len(values):
            mean, low, high = student_t.mean_interval(values)
            numbers = {"estimate": mean, "low": low, "high": high, "blocks": len(values)}
            found.append({"model": model, "cell": cell, **numbers})
    return found


def _finding(effects: Effects, claim: Claim) -> ClaimCheck:
    """Puts one claim beside what the study measured."""
    table = effects.table
    if claim.quantity in ("accuracy", "hours"):
        ours = _cell_numbers(effects, claim)
        unit = "" if claim.quantity == "accuracy" else " h"
        words = [f"{o['model']} {o['cell']}: {o['estimate']:.4g}{unit}{_span(o)}, {o['blocks']} blocks" for o in ours]
    else:
        kind = "combined" if claim.quantity == "combined" else "simple"
        rows = table[table["response"].eq("train_seconds") & table["kind"].eq(kind) & table["estimate"].notna()]
        pooled = rows[rows["model"].eq(ALL) & rows["dataset"].eq(ALL)]
        ours = [_number(row) for row in (pooled if len(pooled) else rows).itertuples()]
        words = [_ratio_words(o) for o in ours]
    return ClaimCheck(claim.key, claim.claim, claim.caveat, "; ".join(words) or NOT_MEASURED, ours)


def _ratio_words(row: dict[str, Any]) -> str:
    verdict = str(row["verdict"]).replace("_", " ")
    where = f"{row['model']} / {row['dataset']}"
    return f"{row['term']}, {where}: time ratio {row['estimate']:.3f}{_span(row)}, {verdict}"


def _span(numbers: dict[str, Any]) -> str:
    return "" if math.isnan(numbers["low"]) else f" [{numbers['low']:.4g}, {numbers['high']:.4g}]"


def _select(effects: Effects, term: str, responses: tuple[str, ...], kind: str = "main") -> list[dict[str, Any]]:
    """Takes the effects of one technique (all its levels), per model and dataset and pooled."""
    table = effects.table
    if table.empty:
        return []
    rows = table[table["kind"].eq(kind) & table["response"].isin(responses) & table["estimate"].notna()]
    rows = rows[rows["term"].str.split("=").str[0].eq(term)]
    return [_number(row) for row in rows.itertuples()]


def _q1(effects: Effects, study: StudyData) -> list[dict[str, Any]]:
    rows = _select(effects, "ga", ("train_seconds", "gpu_peak_allocated_mib", "accuracy"))
    runs = effects.study.runs
    raw = pd.Series(text(study.runs, f"params.{RECIPE_PARAM}batch_size").to_numpy(), index=text(study.runs, "run_id"))
    sizes = (
        runs["run_id"].map(raw[~raw.index.duplicated()]).groupby(runs["model"]).agg(lambda v: ", ".join(sorted(set(v))))
    )
    return [{**row, "batch_size": sizes.get(row["model"], "")} for row in rows]


def _q2(effects: Effects, study: StudyData) -> list[dict[str, Any]]:
    del study
    return _select(effects, "amp", ("train_seconds", "accuracy"))


def _q3(effects: Effects, study: StudyData) -> list[dict[str, Any]]:
    del study
    return _select(effects, "pm", ("train_seconds",))


def _c1(effects: Effects, study: StudyData) -> list[dict[str, Any]]:
    """Mean and standard deviation over five seeds or more of EfficientNet on CIFAR-10."""
    del study
    runs = effects.study.runs
    mine = runs[runs["model"].str.lower().str.contains("efficientnet", regex=False) & runs["dataset"].eq("cifar10")]
    return _spread(mine[mine["outcome"].eq("finished")], ("accuracy", "train_seconds"), least=5)


def _spread(runs: pd.DataFrame, columns: tuple[str, ...], least: int) -> list[dict[str, Any]]:
    """Returns mean, standard deviation and the mean's t interval of every cell with at least `least` runs."""
    found = []
    for (model, dataset, cell), part in runs.groupby(["model", "dataset", "cell"], sort=False):
        for column in columns:
            values = part[column].dropna()
            if len(values) >= max(least, 2):
                mean, low, high = student_t.mean_interval(values)
                sd = float(values.std(ddof=1))
                numbers = {"estimate": mean, "low": low, "high": high, "sd": sd, "seeds": len(values)}
                found.append({"model": model, "dataset": dataset, "response": column, "term": cell, **numbers})
    return found


def _c2(effects: Effects, study: StudyData) -> list[dict[str, Any]]:
    del study
    table = effects.table
    if table.empty:
        return []
    rows = table[table["response"].eq("train_seconds") & table["kind"].isin(["simple", "combined", "synergy"])]
    return [_number(row) for row in rows[rows["estimate"].notna()].itertuples()]


def _c3(effects: Effects, study: StudyData) -> list[dict[str, Any]]:
    """Validation accuracy, after the last epoch, of architectures that the paper did not use."""
    runs = effects.study.runs
    known = ("resnet", "efficientnet", "vit")
    plain = runs["model"].str.lower()
    other = runs[
        ~plain.map(lambda m: any(k in m for k in known) and "mobile" not in m) & runs["outcome"].eq("finished")
    ]
    if study.history.empty or "key" not in study.history or other.empty:
        return []
    points = study.history[study.history["key"].eq(VAL_ACCURACY)].sort_values("step")
    last = points.groupby("run_id")["value"].last()
    held = other.assign(val_accuracy=other["run_id"].map(last))
    return _spread(held, ("val_accuracy", "train_seconds"), least=2)


_Answer = Callable[[Effects, StudyData], list[dict[str, Any]]]
OPEN_QUESTIONS: tuple[tuple[str, str, str, _Answer], ...] = (
    (
        "Q1",
        "How do the gains of gradient accumulation vary over architectures and batch sizes?",
        "ablate grid --study paper-q1 && ablate report paper-q1 --paper",
        _q1,
    ),
    (
        "Q2",
        "What does AMP trade between accuracy and speed, over datasets?",
        "ablate grid --study paper-q2 && ablate report paper-q2 --paper",
        _q2,
    ),
    (
        "Q3",
        "How does pinned memory behave for datasets with other memory-access patterns?",
        "ablate grid --study paper-q3 && ablate report paper-q3 --paper",
        _q3,
    ),
    (
        "C1",
        "Five seeds with standard deviations for EfficientNet on CIFAR-10.",
        "ablate grid --study paper-c1 && ablate report paper-c1 --paper",
        _c1,
    ),
    (
        "C2",
        "Each technique alone against the combination: is there synergy?",
        "ablate grid --study paper-c2 && ablate report paper-c2 --paper",
        _c2,
    ),
    (
        "C3",
        "A held-out architecture (MobileNet) on a held-out validation split.",
        "ablate grid --study heldout && ablate report heldout --paper",
        _c3,
    ),
)


def audit_paper(study: StudyData, effects: Effects) -> Audit:
    """Audits the paper against a study.

    Args:
        study: The study as stored.
        effects: Its estimates.

    Returns:
        Every claim with its caveat and our measurement, the confounds, and the open questions with their
        tables.
    """
    findings = tuple(_finding(effects, claim) for claim in CLAIMS) if len(effects.table) else tuple(
        ClaimCheck(c.key, c.claim, c.caveat, NOT_MEASURED) for c in CLAIMS
    )  # fmt: skip
    questions = []
    for key, question, command, compute in OPEN_QUESTIONS:
        table = compute(effects, study) if len(effects.study.runs) else []
        answer = f"{len(table)} estimates" if table else NOT_MEASURED
        questions.append(Question(key, question, command, answer, table))
    return Audit(findings, CONFOUNDS, tuple(questions))
