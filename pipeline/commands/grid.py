"""The commands' work, without parsing: builds a session, runs it, prints what came out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.commands.display import LiveDisplay, PlainDisplay, print_tables
from pipeline.design.plan import Plan
from pipeline.design.spec import OUTCOMES
from pipeline.errors import OutsideError
from pipeline.execution import session
from pipeline.execution import summary as results
from pipeline.execution.controller import Tally
from pipeline.tracking.uri import STATE_DIR, resolve_uri


def run_grid(
    options: dict[str, Any], *, as_json: bool, dry_run: bool, single: bool, tuned: Mapping[str, Any] | None = None
) -> int:
    """`ablate grid` and `ablate run`; returns the exit code.

    Args:
        options: of `session.Flags`.
        as_json: one JSON document on standard output.
        dry_run: print the plan only.
        single: one cell.
        tuned: with `--tuned`, how to tune first (see `TuneFlags`): `trials`, `trial_seconds`, `storage`.
    """
    flags = session.Flags(**options)
    out = sys.stderr if as_json else sys.stdout
    if tuned is not None:
        from pipeline.commands.tune import freeze

        try:
            flags = freeze(flags, tuned, dry_run=dry_run, out=out)
        except KeyboardInterrupt:
            return _interrupted()
    choice = session.choose(flags, single)
    print(choice.headline, file=out, flush=True)
    if dry_run:
        print(json.dumps(_plan_document(choice.plan), indent=1) if as_json else _plan_text(choice.plan))
        return 0
    live = out.isatty() and os.environ.get("TERM") != "dumb"
    display = LiveDisplay() if live else PlainDisplay(out)
    try:
        held = session.Session(flags, choice, display)
        tally = held.run(alone=single)
    except KeyboardInterrupt:  # before the first run
        return _interrupted()
    finally:
        display.close()
    assert held.grid is not None
    found = results.tables(held.grid.results())
    if as_json:
        print(json.dumps(_result_document(choice.plan, held, tally, found), indent=1))
    else:
        print_tables(found)
        print(_closing(held, tally))
    return _exit_code(held, tally)


def _exit_code(held: session.Session, tally: Tally) -> int:
    if tally.broken is not None:
        raise OutsideError(f"{tally.broken}; what was journaled is kept, go on with: {session.resume_command()}")
    if tally.interrupted:
        return _interrupted()
    if not tally.delivered:
        assert held.grid is not None
        cause = held.grid.book.error or "the store does not answer"
        raise OutsideError(f"tracking store: not everything was delivered ({cause}); `ablate sync` will deliver it")
    return 0 if tally.complete else 1


def _interrupted() -> int:
    print(f"ablate: interrupted; go on with: {session.resume_command()}", file=sys.stderr)
    return 130


def _closing(held: session.Session, tally: Tally) -> str:
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


def _result_document(plan: Plan, held: session.Session, tally: Tally, found: Any) -> dict[str, Any]:
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


def _tracker(name: str, tracking_uri: str | None) -> Any:
    from pipeline.tracking.study_data import client_of

    return client_of(resolve_uri(tracking_uri), name, STATE_DIR)


def default_study() -> str:
    """The study that `ablate grid` without `--study` runs here."""
    return os.environ.get("ABLATE_STUDY") or ("paper" if session.resolve_device("auto") == "cuda" else "quickstart")


def experiment_of(study: str | None) -> str:
    """The experiment that a study's runs are in."""
    name = study or default_study()
    if name.endswith((".yaml", ".yml")):
        from pipeline.design.study import load

        name = load(name).name
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or name


def show_status(study: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """`ablate status`."""
    from pipeline.tracking.status import status_of

    found = status_of(_tracker(experiment_of(study), tracking_uri), STATE_DIR)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print(f"study {found['study']}: {found['cells']} cells")
        for name in ("finished", "failed", "oom", "timeout", "interrupted", "running", "pending"):
            print(f"  {name:<12} {found[name]}")


def sync_journals(tracking_uri: str | None, as_json: bool) -> None:
    """`ablate sync`.

    Raises:
        OutsideError: the store is still away.
    """
    from pipeline.tracking.status import sync

    journals, entries, problems = sync(tracking_uri, STATE_DIR)
    if as_json:
        print(json.dumps({"journals": journals, "entries": entries, "problems": problems}))
        return
    print(f"{journals} journal(s) delivered, {entries} entries")
    for problem in problems:
        print(f"not stored: {problem}")


def _data_dir(data_dir: str | None) -> Path:
    from pipeline.design.imagefolder import default_data_dir

    return Path(data_dir) if data_dir else default_data_dir()


def prepare_data(names: tuple[str, ...], data_dir: str | None) -> None:
    """`ablate data prepare`: with a progress bar on a terminal, one line per data set elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.design import catalog

    for name in names:
        catalog.dataset(name)
    from pipeline.training.data import store

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    for name in names:
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task(name, total=None)
            source = store.prepare(
                name,
                _data_dir(data_dir),
                image_size=32,
                check=True,
                report=partial(_advance, bar, task),
            )
        train, test = len(source.train_labels), len(source.test_labels)
        print(f"{name}: {train} training and {test} test images, {len(source.class_names)} classes")


def _advance(bar: Any, task: Any, text: str, done: int, total: int) -> None:
    bar.update(task, description=text, completed=done, total=total)


def verify_data(names: tuple[str, ...], data_dir: str | None) -> int:
    """`ablate data verify`; returns the exit code."""
    from pipeline.design import catalog

    for name in names:
        catalog.dataset(name)
    from pipeline.training.data import store

    bad = 0
    for name in names:
        problems = store.verify(name, _data_dir(data_dir))
        bad += bool(problems)
        print(f"{name}: " + ("; ".join(problems) if problems else "ok"))
    return 1 if bad else 0
