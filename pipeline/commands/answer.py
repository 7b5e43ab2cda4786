"""The answer that a command ends with: one sentence for each technique."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.design.names import DIGEST_TAG, NOTE_TAG
from pipeline.design.plan import Plan
from pipeline.errors import first_line
from pipeline.shown import markdown_cell

if TYPE_CHECKING:
    from pipeline.analysis.effects import Effects
    from pipeline.tracking.mlflow_store import MlflowStore
    from pipeline.tracking.round_data import RunSource

MOST_RUNS = 5000  # that are analysed at the end of a call; of more the report tells


def effects_of_plan(store: RunSource, plan: Plan) -> Effects | None:
    """The effects of a plan's runs, with times from rounds of the same cells; None where there is nothing to tell.

    Args:
        store: the tracking store, on the study's experiment.
        plan: all runs of the call.
    """
    from pipeline.analysis.effects import estimate
    from pipeline.tracking.round_data import youngest_rounds
    from pipeline.tracking.study_data import StudyData, finished_runs

    if len(plan.runs) > MOST_RUNS or not plan.study.techniques:
        return None
    everything = store.frame()
    mine = {run.spec.digest for run in plan.runs}
    runs, _ = finished_runs(everything, plan.study.name, mine)
    if runs.empty:
        return None
    runs = runs[runs[f"tags.{DIGEST_TAG}"].isin(mine)].reset_index(drop=True)
    if runs.empty:
        return None
    rounds, _ = youngest_rounds(store, everything, plan.study.name, plan.factors)
    return estimate(StudyData(plan.study.name, runs, techniques=tuple(plan.study.techniques), rounds=rounds))


def closing_answer(effects: Effects) -> list[str]:
    """The answer in lines: what to use, what each technique does, and what a reader must know of both."""
    from pipeline.analysis.answer import answer_of
    from pipeline.analysis.break_even import break_evens, of_answer
    from pipeline.analysis.report.headlines import answer_lines, answer_text

    rounds = [note for note in effects.notes if note.startswith("Times of ")]
    where = " (times from rounds of `ablate speed`)" if rounds else ""
    text = answer_text(answer_of(effects), effects)
    even = of_answer(break_evens(effects), effects.study.factors)
    lines = [*answer_lines(text), *(f"{each.model} / {each.dataset}: {each}" for each in even)]
    lines += [f"note: {note}" for note in (*text.notes, *effects.notes) if note not in rounds]
    return [f"the answer{where}:", *(f"  {line}" for line in lines)]


def describe(store: MlflowStore, parent_key: str, answer: Sequence[str], rest: str) -> None:
    """Puts the answer on top of the parent run's description, which MLflow's page shows.

    It is no record: what a store does not take here is lost to nobody, since `ablate report` makes it again.

    Args:
        store: on the study's experiment.
        parent_key: of the parent run.
        answer: as `closing_answer` gives it.
        rest: what stands below it, as Markdown.
    """
    title, *lines = answer
    points = [" " * (len(line) - len(line.lstrip()) - 2) + f"- {markdown_cell(line.strip())}" for line in lines]
    heading = f"## {title[0].upper()}{title[1:].rstrip(':')}"
    try:
        store.set_tag(parent_key, NOTE_TAG, "\n".join([heading, "", *points, "", rest]))
    except Exception as error:  # every store has errors of its own
        print(f"ablate: the answer is not in the parent run's description: {first_line(error)}", file=sys.stderr)
