"""`ablate compare`."""

from __future__ import annotations

from pipeline.paths import STATE_DIR
from pipeline.tracking.study_data import load_study_data


def run_compare(study_a: str, study_b: str, tracking_uri: str | None, uri_b: str | None, *, as_json: bool) -> None:
    """`ablate compare`: B against A, cell by cell and effect by effect."""
    from pipeline.analysis import comparison

    first, _ = load_study_data(study_a, tracking_uri, STATE_DIR, curves=False)
    second, _ = load_study_data(study_b, uri_b or tracking_uri, STATE_DIR, curves=False)
    found = comparison.compare_studies(first, second)
    print(found.to_json() if as_json else found.to_markdown())
