"""The commands' work, without parsing: builds a session, runs it, prints what came out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.commands.display import LiveDisplay, PlainDisplay, print_tables
from pipeline.commands.output import interrupted
from pipeline.design import selection
from pipeline.design.plan import Plan
from pipeline.design.records import OUTCOMES
from pipeline.errors import OutsideError
from pipeline.execution import interrupt, session, summary
from pipeline.execution.device import device_of
from pipeline.execution.listener import GridOutcome
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.study_data import finished_runs


def run_grid(
    options: dict[str, Any], *, as_json: bool, dry_run: bool, single: bool, tuned: Mapping[str, Any] | None = None
) -> int:
    """`ablate grid` and `ablate run`; returns the exit code.

    Args:
        options: of `selection.GridOptions`.
        as_json: one JSON document on standard output.
        dry_run: print the plan only.
        single: one cell.
        tuned: with `--tuned`, how to tune first (see `TuneOptions`): `trials`, `trial_seconds`, `storage`.
    """
    flags = selection.GridOptions(**options)
    out = sys.stderr if as_json else sys.stdout
    if tuned is not None:
        from pipeline.commands.tune import freeze

        try:
            flags = freeze(flags, tuned, dry_run=dry_run, out=out)
        except KeyboardInterrupt:
            return interrupted()
    choice = selection.select_plan(flags, device_of(flags), single)
    print(choice.headline, file=out, flush=True)
    if dry_run:
        print(json.dumps(_plan_document(choice.plan), indent=1) if as_json else _plan_text(choice.plan))
        return 0
    live = out.isatty() and os.environ.get("TERM") != "dumb"
    display = LiveDisplay() if live else PlainDisplay(out)
    try:
        held = session.Session(flags, choice, display, undecided=undecided_in_words)
        tally = held.run(alone=single)
    except KeyboardInterrupt:  # before the first run
        return interrupted()
    finally:
        display.close()
    assert held.grid is not None
    found = summary.tables(held.grid.results())
    if as_json:
        print(json.dumps(_result_document(choice.plan, held, tally, found), indent=1))
    else:
        print_tables(found)
        print(_closing(held, tally))
    return _exit_code(held, tally)


def _exit_code(held: session.Session, tally: GridOutcome) -> int:
    if tally.broken is not None:
        raise OutsideError(f"{tally.broken}; what was journaled is kept, go on with: {interrupt.resume_command()}")
    if tally.interrupted:
        return interrupted()
    if not tally.delivered:
        assert held.grid is not None
        cause = held.grid.book.error or "the store does not answer"
        raise OutsideError(f"tracking store: not everything was delivered ({cause}); `ablate sync` will deliver it")
    return 0 if tally.complete else 1


def _closing(held: session.Session, tally: GridOutcome) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
    lines = [f"{tally.cells} cell{'' if tally.cells == 1 else 's'}: {counts}"]
    for problem in held.tracker.problems[:5]:
        lines.append(f"not stored: {problem}")
    uri = held.flags.tracking_uri
    lines.append("compare the runs: ablate ui" + (f" --tracking-uri {uri}" if uri else ""))
    lines.append(f"effects with intervals: ablate report {held.plan.study.name}")
    return "\n".join(lines)


def _plan_text(plan: Plan) -> str:
    lines = [f"{run.position:>5}  block {run.block}  {run.spec.digest[:12]}  {run.spec.name}" for run in plan.runs]
    if plan.alias:
        lines += ["", "aliases of the fraction:", *(f"  {text}" for text in plan.alias)]
    return "\n".join(lines)


def _plan_document(plan: Plan) -> dict[str, Any]:
    cells = [
        {
            "position": run.position,
            "block": run.block,
            "kind": run.kind,
            "name": run.spec.name,
            "digest": run.spec.digest,
            **run.spec.model_dump(mode="json"),
        }
        for run in plan.runs
    ]
    return {"study": plan.study.name, "device": plan.device, "alias": list(plan.alias), "cells": cells}


def _result_document(plan: Plan, held: session.Session, tally: GridOutcome, found: Any) -> dict[str, Any]:
    counts = {outcome: tally.outcomes.get(outcome, 0) for outcome in (*OUTCOMES, "pending")}
    rows = [
        {"model": model, "dataset": dataset, **vars(row)} for (model, dataset), rows in found.items() for row in rows
    ]
    parent = held.grid.book.parent if held.grid else ""
    return {
        "study": plan.study.name,
        "experiment": held.tracker.experiment,
        "parent": parent,
        "cells": tally.cells,
        **counts,
        "delivered": tally.delivered,
        "results": rows,
    }


def undecided_in_words(tracker: MlflowStore, study: str, techniques: tuple[str, ...], precision: float) -> list[str]:
    """Main effects on the training time whose interval is still wider than `precision`, in words, widest first.

    Args:
        tracker: the store.
        study: its name.
        techniques: the study's techniques.
        precision: largest width of an interval, as a fraction.
    """
    from pipeline.analysis.effects import estimate
    from pipeline.analysis.stopping import undecided_effects as wide
    from pipeline.tracking.study_data import StudyData

    runs, _ = finished_runs(tracker.frame())
    found = wide(estimate(StudyData(study, runs, techniques=techniques)), precision)
    return [f"{effect.term} on {effect.model}/{effect.dataset} ({effect.width:.1%} wide)" for effect in found]
