"""Finds that a grid has nothing left to do, by reading a local store's tables alone.

A call that goes on with a grid starts a server with PyTorch, MLflow and a journal. Where every cell has its outcome,
nobody is at work and everything is delivered, all of that would only write what is there already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.design.names import COMMAND_TAG, DELIVERED_TAG, STORE_TAG
from pipeline.design.plan import Plan
from pipeline.execution.cell_queue import CellQueue
from pipeline.execution.listener import GridOutcome
from pipeline.files import reading
from pipeline.tracking import journal, mlflow_sqlite
from pipeline.tracking.attempts import Attempt
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.delivery import delivered_state
from pipeline.tracking.liveness import ENDED
from pipeline.tracking.mlflow_sqlite import SqliteReader
from pipeline.tracking.parent_run import has_room_for, youngest_parent
from pipeline.tracking.replay import earlier_journals
from pipeline.tracking.trusted import plan_file
from pipeline.tracking.uri import sqlite_file


@dataclass(frozen=True)
class DoneGrid:
    """A grid of which nothing is left to run, to write or to deliver.

    Attributes:
        source: the store, for reading.
        parent_key: key of its parent run.
        outcomes: digest -> outcome of each cell.
        outcome: the same as a call has it.
    """

    source: SqliteReader
    parent_key: str
    outcomes: Mapping[str, str]
    outcome: GridOutcome


def find_done_grid(
    plan: Plan, uri: str, experiment: str, state_dir: Path, tags: Mapping[str, str], retries: int
) -> DoneGrid | None:
    """Says what came of a plan; None where anything at all is left, or in doubt: the whole call finds out what.

    Args:
        plan: of the call.
        uri: absolute address of the store.
        experiment: the study's, in it.
        state_dir: folder of journals and plans (`mlruns`).
        tags: of the parent run that the call would open, or open again.
        retries: how often a failed cell is tried again.
    """
    file = sqlite_file(uri)
    source = mlflow_sqlite.open_reader(file, experiment)
    if source is None or file is None or not mlflow_sqlite.tables_are_current(file):
        return None
    if not _is_delivered(source, state_dir / "journal", without_credentials(uri)):
        return None
    attempts = source.attempts()
    parent = youngest_parent(attempts, tags[COMMAND_TAG], has_room_for(plan))
    if parent is None or not _was_asked_last(parent, attempts, file, plan, experiment):
        return None
    if any(not attempt.outcome for attempt in attempts):
        return None
    queue = CellQueue(retries)
    queue.add(plan.runs, [attempt for attempt in attempts if attempt.parent == parent.run_id])
    if queue.waiting:
        return None
    outcome = GridOutcome(cells=len(plan.runs))
    for run in plan.runs:
        ended = queue.outcomes[run.spec.digest]
        outcome.outcomes[ended] = outcome.outcomes.get(ended, 0) + 1
    if not _is_as_written(parent, source, outcome, plan, tags, state_dir):
        return None
    return DoneGrid(source, parent.key, dict(queue.outcomes), outcome)


def _was_asked_last(parent: Attempt, attempts: Sequence[Attempt], file: Path, plan: Plan, experiment: str) -> bool:
    """Whether reports and status are of this question anyway: a call notes on its parent run that it was the last."""
    others = [each for each in attempts if each.kind == parent.kind and each.key != parent.key]
    if any(each.opened > parent.opened for each in others):
        return False
    return mlflow_sqlite.last_parent(file) == (plan.study.name, experiment)


def _is_delivered(source: SqliteReader, folder: Path, uri: str) -> bool:
    """Whether the store is the one that all journals here were delivered to, and no older state of it."""
    tags = source.experiment_tags()
    token, stamp = tags.get(STORE_TAG, ""), tags.get(DELIVERED_TAG, "")
    if not token or not (stamp.isascii() and stamp.isdigit()):
        return False
    for path in earlier_journals(folder / "none", uri, source.experiment):
        known = delivered_state(path)
        if known.token != token or known.stamp > int(stamp) or known.offset < journal.valid_end(path):
            return False
    return True


def _is_as_written(
    parent: Attempt,
    source: SqliteReader,
    outcome: GridOutcome,
    plan: Plan,
    tags: Mapping[str, str],
    state_dir: Path,
) -> bool:
    """Whether the parent run was closed by its last controller, with what this call would write."""
    if parent.outcome != ("finished" if outcome.complete else "failed"):
        return False
    if any(value != ENDED for _, value in parent.heartbeats):
        return False
    there = source.tags_of(parent.run_id)
    if any(there.get(name) != value for name, value in tags.items()):
        return False
    file = plan_file(state_dir, parent.key)
    if file is None:
        return False
    try:
        with reading(file) as stream:
            listed = {str(cell["digest"]) for cell in json.loads(stream.read())["cells"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return listed >= {run.spec.digest for run in plan.cells}  # beside those of other models that the study has had
