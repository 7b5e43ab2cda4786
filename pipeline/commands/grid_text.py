"""What `ablate grid` and `ablate run` print: the plan of a dry run and the results, in words or as a document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.commands.display import print_tables
from pipeline.commands.output import not_stored
from pipeline.design.plan import Plan
from pipeline.design.records import OUTCOMES
from pipeline.execution.forecast import Expected, forecast_text
from pipeline.execution.listener import GridOutcome
from pipeline.execution.session import Session
from pipeline.execution.summary import CellRow
from pipeline.shown import redacted

Tables = Mapping[tuple[str, str], Sequence[CellRow]]  # (model, data set) -> rows


def print_plan(plan: Plan, as_json: bool, expected: Expected | None = None, jobs: int = 1) -> None:
    """Prints every cell of a plan, in the order of the runs.

    Args:
        plan: the plan.
        as_json: whether to print one document with all fields instead of a line per cell.
        expected: what its runs will take; None where nobody has asked.
        jobs: runs at once.
    """
    if as_json:
        estimate = {} if expected is None else {"estimate": {**vars(expected), "jobs": jobs}}
        print(json.dumps({**_plan_document(plan), **estimate}, indent=1))
        return
    print(_plan_text(plan))
    if expected is not None:
        hint = "; --estimate trains each model for a moment to know" if expected.unknown and len(plan.runs) > 1 else ""
        print(forecast_text(expected, jobs) + hint)


def print_results(
    session: Session, outcome: GridOutcome, tables: Tables, as_json: bool, answer: Sequence[str] = ()
) -> None:
    """Prints what a grid measured.

    Args:
        session: the call, which has run.
        outcome: how it ended.
        tables: its results.
        as_json: whether to print one document instead of tables.
        answer: lines that say what the tables mean.
    """
    if as_json:
        print(json.dumps(_result_document(session, outcome, tables), indent=1))
    else:
        if not session.options.quiet:
            print_tables(tables)
        if answer:
            print("\n".join(answer))
        print(_closing_text(session, outcome))


def _plan_text(plan: Plan) -> str:
    lines = [f"{run.position:>5}  block {run.block}  {run.spec.digest[:12]}  {run.name}" for run in plan.runs]
    if plan.alias:
        lines += ["", "aliases of the fraction:", *(f"  {text}" for text in plan.alias)]
    return "\n".join(lines)


def _plan_document(plan: Plan) -> dict[str, Any]:
    cells = [
        {
            "position": run.position,
            "block": run.block,
            "kind": run.kind,
            "name": run.name,
            "digest": run.spec.digest,
            **run.spec.model_dump(mode="json"),
        }
        for run in plan.runs
    ]
    return {"study": plan.study.name, "device": plan.device, "alias": list(plan.alias), "cells": cells}


def _closing_text(session: Session, outcome: GridOutcome) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcome.outcomes.items()))
    lines = [f"{outcome.cells} cell{'' if outcome.cells == 1 else 's'}: {counts}"]
    if session.done is not None or (session.grid is not None and session.grid.nothing_to_do):
        lines.append(_nothing_to_do(outcome))
    lines += not_stored(session.store.problems)
    uri = redacted(session.options.tracking_uri or "")
    lines.append("compare the runs: ablate ui" + (f" --tracking-uri {uri}" if uri else ""))
    lines.append(f"why, and what to use: ablate report {session.plan.study.name}")
    return "\n".join(lines)


def _nothing_to_do(outcome: GridOutcome) -> str:
    if not outcome.complete:
        return "nothing to do: what has not finished is not tried again; --fresh repeats everything"
    if outcome.cells == 1:
        return "nothing to do: the cell has finished already; --fresh repeats it"
    return f"nothing to do: all {outcome.cells} cells have finished already; --fresh repeats them"


def _result_document(session: Session, outcome: GridOutcome, tables: Tables) -> dict[str, Any]:
    counts = {name: outcome.outcomes.get(name, 0) for name in (*OUTCOMES, "pending")}
    rows = [
        {"model": model, "dataset": dataset, **vars(row)} for (model, dataset), rows in tables.items() for row in rows
    ]
    return {
        "study": session.plan.study.name,
        "experiment": session.store.experiment,
        "parent": session.parent_key,
        "cells": outcome.cells,
        **counts,
        "delivered": outcome.delivered,
        "results": rows,
    }
