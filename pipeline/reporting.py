"""`ablate report` and `ablate compare`: from the tracking store to files and text."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline import session
from pipeline.errors import InputError
from pipeline.reading import load


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

    data, tracker, parent = load(study, tracking_uri, session.STATE_DIR, curves=True)
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

    first, _, _ = load(study_a, tracking_uri, session.STATE_DIR, curves=False)
    second, _, _ = load(study_b, uri_b or tracking_uri, session.STATE_DIR, curves=False)
    found = comparing.compare(first, second)
    print(found.to_json() if as_json else found.to_markdown())
