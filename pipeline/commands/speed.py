"""`ablate speed`: all cells of a study alive at once, in rounds of one turn each, until their effects are precise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.commands import grid_text
from pipeline.commands.answer import closing_answer, describe, effects_of_plan
from pipeline.commands.calls import interrupted
from pipeline.commands.output import exit_code, not_stored, shown_on, stream_for_progress, tell_places
from pipeline.design.options import SpeedOptions
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.selection import select_plan
from pipeline.design.turns import TurnGroup, turn_groups
from pipeline.errors import not_allowed
from pipeline.execution.device import device_of
from pipeline.execution.interrupt import command_line
from pipeline.execution.rounds import Judgement, Rates
from pipeline.execution.summary import summary_markdown
from pipeline.execution.turn_session import SpeedOutcome, TurnSession
from pipeline.shown import redacted

if TYPE_CHECKING:
    from pipeline.analysis.effects import Effects


def run_speed(options: SpeedOptions) -> int:
    """Plans, has the cells take turns, and prints what that says.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        AblateError: anything that is not allowed, before anything runs; or the store or the disk failed.
    """
    out = stream_for_progress(options.as_json)
    selected = select_plan(replace(options, seeds=1), device_of(options))
    plan = selected.plan
    if not plan.study.techniques:
        raise not_allowed("--techniques", options.techniques, "at least one: a baseline alone has nothing beside it")
    groups = turn_groups(plan)
    if not options.quiet or options.dry_run:
        print(_headline(plan, groups, selected.headline), file=out, flush=True)
    tell_places(options)
    if options.dry_run:
        runs = tuple(run for group in groups for run in group.runs)
        grid_text.print_plan(replace(plan, runs=runs), options.as_json)
        return 0
    try:
        session, outcome = _run(options, plan, groups, out)
    except KeyboardInterrupt:  # before the first cell
        return interrupted()
    effects = None if outcome.broken else _effects(session)
    answer = [] if effects is None else closing_answer(_with_grid(session, effects))
    if answer:
        command = summary_markdown({}, command_line())
        describe(session.store, session.recorder.parent.key, answer, command)
    if options.as_json:
        print(json.dumps(_document(session, outcome, effects), indent=1))
    elif effects is not None:
        print("\n".join(_lines(session, outcome, effects, answer)))
    outcomes = [course.outcomes for course in outcome.courses.values()]
    return exit_code(
        broken=outcome.broken,
        was_interrupted=outcome.interrupted,
        delivered=outcome.delivered,
        cause=session.recorder.error,
        complete=sum(map(len, outcomes)) == sum(len(group.runs) for group in groups)
        and all(each == "finished" for found in outcomes for each in found.values()),
    )


def _headline(plan: Plan, groups: Sequence[TurnGroup], headline: str) -> str:
    cells = sum(len(group.runs) for group in groups)
    name, _, title = headline.partition("\n")
    first = f"{name.partition(':')[0]}: {cells} cells in {len(groups)} group(s), which take turns, device {plan.device}"
    return first + (f"\n{title}" if title else "")


def _run(
    options: SpeedOptions, plan: Plan, groups: Sequence[TurnGroup], out: TextIO
) -> tuple[TurnSession, SpeedOutcome]:
    names = tuple(plan.study.techniques)

    def judge(runs: Sequence[PlannedRun], rates: Rates) -> Judgement:
        from pipeline.analysis.round_effects import precision_text, round_effects

        settings = [run.spec.techniques for run in runs]
        effects = round_effects(
            settings, names, [rates[run.spec.digest] for run in runs], options.precision, options.min_rounds
        )
        decided = bool(effects) and all(effect.precise for effect in effects)
        return Judgement(decided, precision_text(effects, options.precision))

    with shown_on(out, options) as display:
        session = TurnSession(options, plan, groups, display, judge)
        return session, session.run()


def _effects(session: TurnSession) -> Effects | None:
    """The effects of all rounds of these cells, this call's and earlier ones'; None where there are none."""
    from pipeline.analysis.effects import estimate
    from pipeline.tracking.round_data import round_frame
    from pipeline.tracking.study_data import StudyData

    runs = session.store.frame()
    parent = session.store.run_id(session.recorder.parent.key)
    rounds = round_frame(session.store, runs, parent) if parent else runs.iloc[0:0]
    if rounds.empty:
        return None
    study = session.plan.study
    return estimate(StudyData(study.name, rounds, techniques=tuple(study.techniques), rounds=rounds))


def _with_grid(session: TurnSession, effects: Effects) -> Effects:
    """The effects with the grid's accuracy, where a grid has run the same cells: what a report would say of both."""
    joined = effects_of_plan(session.store, session.plan)
    groups = set(effects.cells[["model", "dataset"]].itertuples(index=False, name=None))
    if joined is None or joined.table.empty:
        return effects
    return joined if groups <= set(joined.cells[["model", "dataset"]].itertuples(index=False, name=None)) else effects


def _lines(session: TurnSession, outcome: SpeedOutcome, effects: Effects, answer: Sequence[str]) -> list[str]:
    lines = []
    for name, course in outcome.courses.items():
        lost = {digest: each for digest, each in course.outcomes.items() if each != "finished"}
        names = {run.spec.digest: run.spec.label for group in session.groups for run in group.runs}
        left_out = "".join(f"; {names[digest]}: {each}" for digest, each in lost.items())
        lines.append(f"{name}: {course.rounds} rounds, {course.judgement.text}{left_out}")
    lines += [*_cell_lines(effects), *answer]
    lines += not_stored(session.store.problems)
    uri = redacted(session.options.tracking_uri or "")
    lines.append(
        f"with accuracy and why: ablate report {session.plan.study.name}" + (f" --tracking-uri {uri}" if uri else "")
    )
    return lines


def _cell_lines(effects: Effects) -> list[str]:
    """Every cell's rate and what it is to the baseline's."""
    rates = effects.cells[effects.cells["response"].eq("images_per_second")]
    lines = []
    for (model, dataset), cells in rates.groupby(["model", "dataset"], sort=False):
        lines.append(f"{model} on {dataset}")
        width = max(len(str(cell)) for cell in cells["cell"])
        for row in cells.to_dict("records"):
            ratio = (
                f"  {row['estimate']:.3f}x [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] == row["low"] else ""
            )
            lines.append(f"  {row['cell']:<{width}}  {row['mean']:>9,.0f} images/s{ratio}")
    return lines


def _document(session: TurnSession, outcome: SpeedOutcome, effects: Effects | None) -> dict[str, Any]:
    groups = []
    for group in session.groups:
        course = outcome.courses.get(group.name)
        groups.append(
            {
                "model": group.model,
                "dataset": group.dataset,
                "rounds": course.rounds if course else 0,
                "decided": bool(course and course.judgement.decided),
                "cells": [
                    {
                        "techniques": run.spec.label,
                        "digest": run.spec.digest,
                        "outcome": course.outcomes.get(run.spec.digest, "pending") if course else "pending",
                        "images_per_second": list(course.rates.get(run.spec.digest, {}).values()) if course else [],
                    }
                    for run in group.runs
                ],
            }
        )
    rows: list[dict[str, Any]] = []
    if effects is not None:
        timed = effects.table[effects.table["response"].eq("train_seconds")]
        rows = json.loads(timed.drop(columns="response").to_json(orient="records"))
    return {
        "study": session.plan.study.name,
        "experiment": session.store.experiment,
        "parent": session.recorder.parent.key,
        "precision": session.options.precision,
        "delivered": outcome.delivered,
        "groups": groups,
        "effects": rows,
    }
