"""How far a study is, and delivery of what the store has not got yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.design.names import HEARTBEAT_TAG
from pipeline.tracking.attempts import Attempt
from pipeline.tracking.liveness import is_alive
from pipeline.tracking.mlflow_store import MlflowStore


def status_of(tracker: MlflowStore, state_dir: Path) -> dict[str, Any]:
    """Counts the cells of the study's youngest grid by their state.

    A cell is as far as its best try: finished beats everything, a live try beats older failures. Cells that no
    controller has tried, or whose last try was cut off, are pending or interrupted.

    Returns:
        The document of `ablate status --json`.
    """
    attempts = tracker.attempts()
    parents = [a for a in attempts if a.kind == "grid" and a.command == "grid"] or [
        a for a in attempts if a.kind == "grid"
    ]
    parent = max(parents, key=lambda attempt: attempt.start_time, default=None)
    counts = dict.fromkeys(("finished", "failed", "oom", "timeout", "interrupted", "running", "pending"), 0)
    document: dict[str, Any] = {"study": tracker.experiment, "cells": 0, **counts}
    if parent is None:
        return document
    tags = tracker.tags(parent.key)
    beats = {name.removeprefix(HEARTBEAT_TAG): value for name, value in tags.items() if HEARTBEAT_TAG in name}
    digests = _planned(state_dir, parent.key)
    found: dict[str, list[str]] = {}
    for attempt in attempts:
        planned = digests is None or attempt.digest in digests
        if attempt.kind == "run" and attempt.parent == parent.run_id and planned:
            found.setdefault(attempt.digest, []).append(_state(attempt, beats))
    cells = len(digests) if digests is not None else max(int(tags.get("ablate.cells", "0")), len(found))
    for states in found.values():
        best = next(s for s in ("finished", "oom", "running", "failed", "timeout", "interrupted") if s in states)
        counts[best] += 1
    counts["pending"] = cells - len(found)
    return {"study": tags.get("ablate.study", tracker.experiment), "cells": cells, **counts}


def _state(attempt: Attempt, beats: dict[str, str]) -> str:
    if attempt.outcome:
        return attempt.outcome
    beat = beats.get(attempt.owner, "")
    return "running" if is_alive(attempt.owner, int(beat) / 1000 if beat.isdigit() else None) else "interrupted"


def _planned(state_dir: Path, key: str) -> set[str] | None:
    """Digests of the grid's cells, where its plan is on this machine."""
    try:
        content = json.loads((state_dir / "plans" / f"{key}.json").read_text())
        return {str(cell["digest"]) for cell in content["cells"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
