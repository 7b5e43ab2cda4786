"""`ablate status`."""

from __future__ import annotations

import json
from typing import Any

from pipeline.commands.output import experiment_of
from pipeline.paths import STATE_DIR
from pipeline.tracking.uri import resolve_uri


def _tracker(name: str, tracking_uri: str | None) -> Any:
    from pipeline.tracking.study_data import client_of

    return client_of(resolve_uri(tracking_uri), name, STATE_DIR)


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
