"""From the tracking store to a report: reads nothing but the names of the contract."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pipeline import session
from pipeline.errors import InputError
from pipeline.tracker import Tracker, resolve_uri

CURVES = ("train/loss", "val/accuracy")
MAX_CURVE_RUNS = 400


def load(name: str, tracking_uri: str | None, *, curves: bool) -> tuple[Any, Tracker, str]:
    """Reads a study: the children of its youngest grid, or all runs where no parent is tagged.

    Args:
        name: of the study's experiment.
        tracking_uri: the flag's value.
        curves: whether per-epoch metrics are wanted too.

    Returns:
        The `StudyData`, the tracker, and the parent's run id (empty when there is none).

    Raises:
        InputError: no such study, or it has no runs.
    """
    from pipeline.analysis.frame import StudyData

    tracker = Tracker(resolve_uri(tracking_uri), name, session.STATE_DIR / "artifacts")
    tracker.connect(create=False)
    runs = tracker.frame()
    if runs.empty:
        raise InputError(f"study {name!r}: no runs in the tracking store; allowed: a study that has been run")
    runs, parent = _children(runs)
    if runs.empty:
        raise InputError(f"study {name!r}: its youngest grid has no runs yet; allowed: a study that has been run")
    techniques = _techniques(tracker, parent)
    wanted = runs["run_id"].tolist() if curves and len(runs) <= MAX_CURVE_RUNS else []
    return StudyData(name, runs, tracker.history(wanted, CURVES), techniques), tracker, parent


def _children(runs: Any) -> tuple[Any, str]:
    kind = runs.get("tags.ablate.kind")
    if kind is None:
        return runs, ""
    rows = runs[kind.isin(("run", "sentinel"))]
    parent_of = rows.get("tags.mlflow.parentRunId")
    parents = runs[kind == "grid"]
    command = parents.get("tags.ablate.command")
    if command is not None and (command == "grid").any():
        parents = parents[command == "grid"]
    if parents.empty or parent_of is None:
        return rows, ""
    parents = parents[parents["run_id"].isin(set(parent_of))]
    if parents.empty:
        return rows.iloc[0:0], ""
    youngest = str(parents.sort_values("start_time")["run_id"].iloc[-1])
    chosen = rows[parent_of == youngest]
    # a run that is still going has no numbers yet
    return chosen[chosen["status"] != "RUNNING"].reset_index(drop=True), youngest


def _techniques(tracker: Tracker, parent: str) -> tuple[str, ...]:
    if not parent:
        return ()
    tags = tracker.client.get_run(parent).data.tags
    return tuple(name for name in tags.get("ablate.techniques", "").split(",") if name)


def report(
    study: str,
    tracking_uri: str | None,
    out: str | None,
    *,
    as_json: bool,
    paper: bool,
    memory_limit: float | None,
    margin: float,
    accuracy_margin: float,
) -> None:
    """`ablate report`: builds and writes the report, and logs it to the parent run."""
    from pipeline.analysis.report import build, summary_lines

    data, tracker, parent = load(study, tracking_uri, curves=True)
    found = build(
        data, memory_limit_mib=memory_limit, margin=margin, accuracy_margin_points=accuracy_margin, paper=paper
    )
    folder = Path(out) if out else session.STATE_DIR / "reports" / re.sub(r"[^A-Za-z0-9._-]", "_", study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = found.write(folder)
    except OSError as error:
        raise InputError(
            f"--out: {str(folder)!r} is not allowed ({error.strerror}); allowed: a writable folder"
        ) from None
    if parent:
        for path in paths:
            tracker.client.log_artifact(parent, str(path), "report")
    if as_json:
        print((folder / "report.json").read_text())
        return
    print("\n".join(summary_lines(found)))
    print(f"written: {os.path.relpath(folder / 'report.html')} and {len(paths) - 1} more files")


def compare(study_a: str, study_b: str, tracking_uri: str | None, uri_b: str | None, *, as_json: bool) -> None:
    """`ablate compare`: B against A, cell by cell and effect by effect."""
    from pipeline.analysis import compare as comparing

    first, _, _ = load(study_a, tracking_uri, curves=False)
    second, _, _ = load(study_b, uri_b or tracking_uri, curves=False)
    found = comparing.compare(first, second)
    print(found.to_json() if as_json else found.to_markdown())
