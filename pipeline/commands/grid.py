"""`ablate grid` and `ablate run`: the whole walk, one line a step.

options -> study and plan (`design.selection`) -> launcher, tracking store and controller (`execution.session`, which
launches each cell's run and has its records journaled and stored) -> the table of results (`execution.summary`) -> the
answer in a sentence for each technique (`commands.answer`). Why, and what to use, is for `commands.report` to say.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TextIO

from pipeline import nvml
from pipeline.commands import grid_text
from pipeline.commands.answer import closing_answer, describe, effects_of_plan
from pipeline.commands.calls import interrupted
from pipeline.commands.output import exit_code, shown_on, stream_for_progress, tell_places
from pipeline.design.catalog import IMAGEFOLDER
from pipeline.design.names import DIGEST_TAG
from pipeline.design.options import GridOptions
from pipeline.design.plan import Plan
from pipeline.design.selection import SelectedPlan, select_plan
from pipeline.execution import summary
from pipeline.execution.device import device_of
from pipeline.execution.forecast import Expected, forecast_of
from pipeline.execution.interrupt import command_line
from pipeline.execution.listener import GridOutcome
from pipeline.execution.session import Session
from pipeline.execution.threads import told_if_long
from pipeline.shown import printable
from pipeline.tracking.mlflow_store import MlflowStore

if TYPE_CHECKING:
    from pipeline.analysis.stopping import MainEffectPrecision


def run_grid(options: GridOptions) -> int:
    """Plans, runs what is not finished yet, and prints what came out.

    Args:
        options: of `ablate grid`, or of `ablate run` for one cell.

    Returns:
        The exit code.

    Raises:
        AblateError: anything that is not allowed, before anything runs; or the store or the disk failed.
    """
    out = stream_for_progress(options.as_json)
    options = replace(options, dry_run=options.dry_run or options.estimate)
    try:
        if options.tuned:
            options = _with_tuned_recipes(options, out)
        with _told_if_hashing(options):
            selected = select_plan(options, device_of(options))
        if not options.quiet or options.dry_run:
            print(selected.headline, file=out, flush=True)
        tell_places(options)
        if options.dry_run:
            expected = _expected(options, selected, out)
            grid_text.print_plan(selected.plan, options.as_json, expected, _jobs(options))
            return 0
        session, outcome = _run(options, selected, out)
    except KeyboardInterrupt:  # before the first run
        return interrupted()
    # after an interruption everybody wants to leave
    answer = [] if options.single or outcome.interrupted else _answer(session)
    tables = summary.tables(session.results())
    if answer and session.grid is not None:  # where nothing was to be done it stands there already
        describe(session.store, session.parent_key, answer, summary.summary_markdown(tables, command_line()))
    grid_text.print_results(session, outcome, tables, options.as_json, answer)
    return exit_code(
        broken=outcome.broken,
        was_interrupted=outcome.interrupted,
        delivered=outcome.delivered,
        cause=session.error,
        complete=outcome.complete,
    )


def _told_if_hashing(options: GridOptions) -> AbstractContextManager[None]:
    """Says what takes long: the files of a folder of images are hashed when it is met for the first time."""
    if IMAGEFOLDER not in (options.datasets or ""):
        return nullcontext()
    tell = partial(print, file=sys.stderr, flush=True)
    return told_if_long(tell, f"the files of {printable(options.datasets or '')} to be hashed, once")


def _with_tuned_recipes(options: GridOptions, out: TextIO) -> GridOptions:
    from pipeline.commands.tune import with_tuned_recipes

    return with_tuned_recipes(options, out)


def _run(options: GridOptions, selected: SelectedPlan, out: TextIO) -> tuple[Session, GridOutcome]:
    with shown_on(out, options, forecast_of(selected.plan, options.tracking_uri)) as display:
        session = Session(options, selected, display, precision=precision_of_plan)
        return session, session.run(alone=options.single)


def _expected(options: GridOptions, selected: SelectedPlan, out: TextIO) -> Expected:
    forecast = forecast_of(selected.plan, options.tracking_uri)
    if options.estimate:
        with shown_on(out, options) as display:
            Session(options, selected, display).sample(forecast)
    return forecast.of(run.spec for run in selected.plan.runs)


def _jobs(options: GridOptions) -> int:
    """Runs at once on this machine, without starting anything."""
    return options.jobs or (max(1, len(nvml.gpus())) if device_of(options) == "cuda" else 1)


def _answer(session: Session) -> list[str]:
    """What the grid says, one sentence for each technique; nothing where the store does not answer."""
    if session.error is not None:
        return []
    effects = effects_of_plan(session.source, session.plan)
    return [] if effects is None or effects.table.empty else closing_answer(effects)


def precision_of_plan(store: MlflowStore, plan: Plan, width: float) -> list[MainEffectPrecision]:
    """Says how precise the main effects of a plan on the training time are, widest first; other runs do not count.

    Args:
        store: the tracking store, on the study's experiment.
        plan: all runs of the call up to now.
        width: the largest width of an interval that is narrow enough, as a fraction.
    """
    from pipeline.analysis.stopping import main_effect_precisions
    from pipeline.tracking.study_data import StudyData, finished_runs

    mine = {run.spec.digest for run in plan.runs}
    runs, _ = finished_runs(store.frame(), plan.study.name, mine)
    runs = runs[runs[f"tags.{DIGEST_TAG}"].isin(mine)]
    return main_effect_precisions(StudyData(plan.study.name, runs, techniques=tuple(plan.study.techniques)), width)
