"""How far a study is: its cells, counted by their state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.design.names import CELLS_TAG, ERROR_TAG
from pipeline.errors import InputError
from pipeline.files import reading
from pipeline.tracking.attempts import Attempt, heartbeats_of
from pipeline.tracking.liveness import is_alive
from pipeline.tracking.trusted import plan_file

STATES = ("finished", "failed", "oom", "timeout", "interrupted", "running", "pending")
FAILURES = ("failed", "oom", "timeout")  # of which the first few are named, with their errors
MOST_FAILURES = 10
_BEST = ("finished", "oom", "running", "failed", "timeout", "interrupted")


class StatusSource(Protocol):
    """Where tries are read: MLflow's client (`MlflowStore`) or the tables of a local store (`SqliteReader`)."""

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        ...

    def attempts(self) -> list[Attempt]:
        """All tries at cells, and parent runs."""
        ...

    def tags_of(self, run_id: str) -> dict[str, str]:
        """Tags of a run."""
        ...


def status_of(store: StatusSource, state_dir: Path, study: str = "") -> dict[str, Any]:
    """Counts the cells of the study's youngest grid by their state, and those of its youngest `ablate speed`.

    A cell is as far as its best try: finished beats everything, a live try beats older failures. Cells that no
    controller has tried, or whose last try was cut off, are pending or interrupted.

    Args:
        store: The study's store and experiment.
        state_dir: Folder with the plans (`mlruns`).
        study: Its name: calls of others in one experiment do not count, where any is of this one.

    Returns:
        The document of `ablate status --json`; `speed` is None where no cells have taken turns.

    Raises:
        InputError: Nothing has been run in the experiment.
    """
    attempts = store.attempts()
    if not attempts:
        raise InputError(
            f"study {store.experiment!r}: no runs in the tracking store; allowed: a study that has been run"
        )
    speed = _youngest([attempt for attempt in attempts if attempt.kind == "speed"], study)
    turns = None if speed is None else _counts(store, state_dir, attempts, speed, "turns")
    grids = [attempt for attempt in attempts if attempt.kind == "grid"]
    parents = [grid for grid in grids if grid.command == "grid"] or grids  # single runs have a parent, too
    parent = _youngest(parents, study)
    if parent is None:
        return {"study": store.experiment, "cells": 0, **dict.fromkeys(STATES, 0), "failures": [], "speed": turns}
    counted = _counts(store, state_dir, attempts, parent, "run")
    return {"study": parent.study or store.experiment, **counted, "speed": turns}


def _youngest(parents: Sequence[Attempt], study: str) -> Attempt | None:
    """The parent run under which the last call of a study worked; of any where none is of that name."""
    mine = [parent for parent in parents if parent.study == study] or parents
    return max(mine, key=lambda parent: (parent.opened, parent.start_time), default=None)


def _counts(
    store: StatusSource, state_dir: Path, attempts: Sequence[Attempt], parent: Attempt, kind: str
) -> dict[str, Any]:
    """How many cells there are under a parent run, how many are in each state, and why the first of them failed.

    Args:
        store: where its tags are read.
        state_dir: folder with the plans.
        attempts: all of the experiment.
        parent: the parent run.
        kind: of its tries.
    """
    counts = dict.fromkeys(STATES, 0)
    tags = store.tags_of(parent.run_id)
    beats = dict(heartbeats_of(tags))
    planned_here = planned_cells(state_dir, parent.key)
    digests = None if planned_here is None else {cell["digest"] for cell in planned_here}
    states_of: dict[str, list[str]] = {}
    ended: dict[tuple[str, str], Attempt] = {}  # digest, outcome -> the last try that ended so
    for attempt in attempts:
        planned = digests is None or attempt.digest in digests
        if attempt.kind == kind and attempt.parent == parent.run_id and planned:
            states_of.setdefault(attempt.digest, []).append(_state(attempt, beats))
            earlier = ended.get((attempt.digest, attempt.outcome), attempt)
            ended[attempt.digest, attempt.outcome] = max(attempt, earlier, key=lambda one: one.start_time)
    cells = len(digests) if digests is not None else max(_count(tags.get(CELLS_TAG, "0")), len(states_of))
    failed: list[Attempt] = []
    for digest, states in states_of.items():
        best = next((s for s in _BEST if s in states), "failed")  # a word of another version's
        counts[best] += 1
        failed += [ended[digest, best]] if best in FAILURES and (digest, best) in ended else []
    counts["pending"] = cells - len(states_of)
    return {"cells": cells, **counts, "failures": [_failure(store, one) for one in failed[:MOST_FAILURES]]}


def _failure(store: StatusSource, attempt: Attempt) -> dict[str, str]:
    tags = store.tags_of(attempt.run_id)
    return {
        "cell": tags.get("mlflow.runName", attempt.digest[:12]),
        "outcome": attempt.outcome,
        "error": tags.get(ERROR_TAG, ""),
    }


def _count(text: str) -> int:
    """A number of cells that any program may have written; what is none counts as nothing known."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _state(attempt: Attempt, beats: dict[str, str]) -> str:
    if attempt.outcome:
        return attempt.outcome
    beat = beats.get(attempt.owner, "")
    return "running" if is_alive(attempt.owner, int(beat) / 1000 if beat.isdigit() else None) else "interrupted"


def planned_cells(state_dir: Path, key: str) -> list[dict[str, Any]] | None:
    """The cells of the calls under a parent run, where their plan is on this machine.

    Args:
        state_dir: folder with the plans.
        key: the parent's own.
    """
    try:
        file = plan_file(state_dir, key)
        if file is None:
            return None
        with reading(file) as stream:
            content = json.loads(stream.read())
        return [{**cell, "digest": str(cell["digest"])} for cell in content["cells"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
