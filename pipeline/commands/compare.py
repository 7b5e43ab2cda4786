"""TODO(charter)."""

from __future__ import annotations

from pipeline.paths import STATE_DIR
from pipeline.tracking.study_data import load


def compare(study_a: str, study_b: str, tracking_uri: str | None, uri_b: str | None, *, as_json: bool) -> None:
    """`ablate compare`: B against A, cell by cell and effect by effect."""
    from pipeline.analysis import comparison

    first, _ = load(study_a, tracking_uri, STATE_DIR, curves=False)
    second, _ = load(study_b, uri_b or tracking_uri, STATE_DIR, curves=False)
    found = comparison.compare(first, second)
    print(found.to_json() if as_json else found.to_markdown())
