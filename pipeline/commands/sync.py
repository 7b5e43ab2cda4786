"""`ablate sync`."""

from __future__ import annotations

import json

from pipeline.paths import STATE_DIR


def sync_journals(tracking_uri: str | None, as_json: bool) -> None:
    """`ablate sync`.

    Raises:
        OutsideError: the store is still away.
    """
    from pipeline.tracking.sync import deliver_journals

    journals, entries, problems = deliver_journals(tracking_uri, STATE_DIR)
    if as_json:
        print(json.dumps({"journals": journals, "entries": entries, "problems": problems}))
        return
    print(f"{journals} journal(s) delivered, {entries} entries")
    for problem in problems:
        print(f"not stored: {problem}")
