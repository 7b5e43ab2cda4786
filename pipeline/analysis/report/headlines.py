"""The answer in words: one sentence per technique."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.analysis.break_even import of_answer
from pipeline.analysis.effects import Effects
from pipeline.analysis.machines import NextMachine
from pipeline.analysis.pooling import ALL
from pipeline.analysis.report.report import Report
from pipeline.analysis.time_to_target import contrary
from pipeline.analysis.verdicts import CHANCE, COSTS, NOT_ENGAGED, PAYS, UNDECIDED

VERDICT_WORDS = {
    "pays": "pays",
    "costs": "costs",
    "no_effect": "no effect",
    "undecided": "undecided",
    "not_engaged": "not engaged",
}
_KIND_WORDS = {"main": "", "simple": " alone", "combined": " together", "synergy": " synergy"}


def headline_rows(effects: Effects) -> pd.DataFrame:
    """Picks the effects on time at the widest pooling, with their details."""
    if effects.table.empty:
        return effects.table
    timed = effects.table[effects.table["response"].eq("train_seconds")]
    for wanted in ((ALL, ALL), (ALL, None), (None, ALL)):
        at = pd.Series(True, index=timed.index)
        for column, value in zip(("model", "dataset"), wanted, strict=True):
            if value is not None:
                at &= timed[column].eq(value)
        if at.any():
            timed = timed[at]
            break
    return timed.join(effects.details.drop(columns="blocks"))


def _undecided(row: Mapping[str, Any]) -> str:
    """Says what would decide an effect."""
    if math.isnan(row["low"]):
        who = "one seed" if row["blocks"] == 1 else "these runs"
        return f"{who} cannot say: run more blocks (--seeds)"
    more = row["further_blocks"]
    if math.isnan(more):
        return "more blocks will hardly decide it"
    return (
        f"about {more:.0f} more {'block' if more == 1 else 'blocks'} would decide it ({10 * CHANCE:.0f} chances in 10)"
    )


def headline(row: Mapping[str, Any], depends: str = "") -> str:
    """Says one effect on the training time in words.

    Args:
        row: A row of `headline_rows`.
        depends: What the effect depends on, in words; empty where it is the same with and without the others.
    """
    name = row["term"] + (" on average" if depends and row["kind"] == "main" else _KIND_WORDS[row["kind"]])
    if row["verdict"] == NOT_ENGAGED:
        return f"{name}: not engaged: {row['not_engaged']}."
    if math.isnan(row["estimate"]):
        return f"{row['term']} ({row['kind']}): no estimate, a cell that it needs has no data."
    than = "what the single speed-ups multiply to" if row["kind"] == "synergy" else "as fast"
    said = f"{name}: {1 / row['estimate']:.3f}x {than}"
    if not math.isnan(row["low"]):
        said += f" [{1 / row['high']:.3f}, {1 / row['low']:.3f}]"
    said += f", {VERDICT_WORDS[row['verdict']]}"
    if row["control"]:
        said += " (an A/A control here: any effect would be noise)"
    elif row["verdict"] == UNDECIDED:
        said += f"; {_undecided(row)}"
    return said + depends + "."


def _dependence(term: str, crossed: Sequence[Mapping[str, Any]]) -> str:
    """Says which others a technique's effect depends on; an interaction that has aliases may be any of them."""
    others, proofs = [], []
    for row in crossed:
        equation = str(row["note"]).partition("aliased: ")[2].partition(";")[0] or row["term"]
        words = [word.lstrip("-").split(":") for word in equation.split(" = ")]
        with_it = ["+".join(part for part in word if part != term) for word in words if term in word]
        if with_it:
            p = row["p_adjusted"]
            others += with_it
            proofs.append(f"{equation}, p " + ("< 0.001" if p < 0.001 else f"= {p:.3f}"))
    return f"; with {', '.join(dict.fromkeys(others))}: it depends ({'; '.join(proofs)})" if others else ""


def headlines(effects: Effects) -> list[str]:
    """Says the answer in one sentence per technique.

    A main effect beside an interaction is an average of effects that differ, so the effect of the technique alone
    takes its place where it is known. What lies within the margin is no interaction, nor is one with an A/A control.
    """
    rows = headline_rows(effects)
    groups = list(rows.groupby(["model", "dataset"], sort=False)) if len(rows) else []
    found = []
    for (model, dataset), part in groups:
        listed = [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]
        alone = {row["term"]: row for row in listed if row["kind"] == "simple" and not math.isnan(row["estimate"])}
        crossed = [
            row
            for row in listed
            if row["kind"] == "interaction"
            and row["verdict"] in (PAYS, COSTS)
            and effects.inert.isdisjoint(row["techniques"])
        ]
        for row in listed:
            if row["kind"] in ("main", "combined", "synergy"):
                depends = _dependence(row["term"], crossed) if row["kind"] == "main" else ""
                words = headline(alone.get(row["term"], row) if depends else row, depends)
                found.append(words if len(groups) == 1 else f"{model} / {dataset}: {words}")
    return found + contrary(effects.table)


def next_machine_line(row: NextMachine) -> str:
    """Says one effect for these machines and for the next."""
    where = "" if row.model == row.dataset == ALL else f"{row.model} / {row.dataset}: "
    name = f"{row.term}{_KIND_WORDS[row.kind]}"
    these = f"{where}{name}: {1 / row.estimate:.3f}x as fast on these {row.machines} {row.unit}s"
    if not math.isnan(row.low):
        these += f" [{1 / row.high:.3f}, {1 / row.low:.3f}]"
    if math.isnan(row.next_low):
        return these + f"; two {row.unit}s cannot tell what it is on the next one."
    return these + f"; on the next {row.unit} like them [{1 / row.next_high:.3f}, {1 / row.next_low:.3f}]."


def machine_lines(report: Report) -> list[str]:
    """Says main and combined effects for the next machine, at the widest average."""
    rows = [row for row in report.machines if row.kind != "simple"]
    pooled = [row for row in rows if row.model == row.dataset == ALL]
    return [next_machine_line(row) for row in pooled or rows]


def summary_lines(report: Report) -> list[str]:
    """Returns the terminal summary: the answer, the recommendation, and the cautions."""
    counts = report.effects.study.runs["outcome"].value_counts()
    parts = ", ".join(f"{n} {name}" for name, n in counts.items()) or "no runs"
    runs = report.effects.study.runs
    if report.study.runs is report.study.rounds:  # nothing but `ablate speed`
        cells = len(runs[["model", "dataset", "cell"]].drop_duplicates())
        lines = [f"study {report.study.name}: {cells} cells, which took turns"]
    else:
        lines = [f"study {report.study.name}: {parts}, {report.effects.study.n_blocks} blocks"]
    lines += [f"  {line}" for line in headlines(report.effects)[:24]]
    lines += [f"  {line}" for line in machine_lines(report)]
    told = of_answer(report.break_evens, report.effects.study.factors)
    lines += [f"  {even.model} / {even.dataset}: {even}" for even in told[:12]]
    for advice in report.recommendations[:12]:
        line = advice.set_line or "(keep the baseline)"
        numbers = f" ({advice.numbers})" if advice.compared else ""
        lines.append(f"  {advice.model} / {advice.dataset}: {advice.cell}: {line}{numbers}")
    lines += [f"  note: {note}" for note in report.effects.notes]
    lines += [f"  caution: {alarm}" for alarm in report.trust.alarms]
    # Control characters in a stored name could drive the terminal.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
