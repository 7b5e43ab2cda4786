"""The answer that a command ends with: one sentence for each technique."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.design.names import DIGEST_TAG
from pipeline.design.plan import Plan

if TYPE_CHECKING:
    from pipeline.analysis.effects import Effects
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


def answer_lines(effects: Effects) -> list[str]:
    """The answer in lines: effects on the training time, and what a reader must know of where they come from."""
    from pipeline.analysis.break_even import break_evens, of_answer
    from pipeline.analysis.report.headlines import headlines

    rounds = [note for note in effects.notes if note.startswith("Times of ")]
    notes = [f"  note: {note}" for note in effects.notes if note not in rounds]
    where = " (from rounds of `ablate speed`)" if rounds else ""
    told = of_answer(break_evens(effects), effects.study.factors)
    even = [f"  {each.model} / {each.dataset}: {each}" for each in told]
    return [f"training time{where}:", *(f"  {line}" for line in headlines(effects)), *even, *notes]
