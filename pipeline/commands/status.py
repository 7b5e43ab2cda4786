"""`ablate status`: how far a study is."""

from __future__ import annotations

import json
from typing import Any

from pipeline.commands.command_options import StatusOptions
from pipeline.commands.output import asked_study
from pipeline.paths import STATE_DIR
from pipeline.shown import printable
from pipeline.tracking.uri import resolve_uri, sqlite_file


def show_status(options: StatusOptions) -> int:
    """Counts the cells of the study's youngest grid, and of its youngest rounds, by their state; prints the counts.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no such store or study.
        OutsideError: the store does not answer.
    """
    from pipeline.tracking import mlflow_sqlite
    from pipeline.tracking.status import STATES, status_of
    from pipeline.tracking.study_data import client_of

    study, experiment = asked_study(options.study, options.tracking_uri)
    uri = resolve_uri(options.tracking_uri)
    source = mlflow_sqlite.open_reader(sqlite_file(uri), experiment) or client_of(uri, experiment, STATE_DIR)
    document = status_of(source, STATE_DIR, study)
    if options.as_json:
        print(json.dumps(document, indent=1))
    else:
        print(f"study {document['study']}: {document['cells']} cells")
        for state in STATES:
            print(f"  {state:<12} {document[state]}")
        _print_failures(document)
        if (turns := document["speed"]) is not None:
            counted = ", ".join(f"{turns[state]} {state}" for state in STATES if turns[state])
            print(f"  in turns (ablate speed): {turns['cells']} cells, {counted}")
            _print_failures(turns)
    return 0


def _print_failures(counts: dict[str, Any]) -> None:
    """Names cells that failed, with why; one line each."""
    for failure in counts["failures"]:
        print(printable(f"  {failure['cell']}: {failure['outcome']}: {failure['error'] or 'no reason is known'}"))
    more = sum(counts[state] for state in ("failed", "oom", "timeout")) - len(counts["failures"])
    if more > 0:
        print(f"  and {more} more")
