"""`ablate sync`: delivery of what journals hold and the store has not got yet."""

from __future__ import annotations

import json

from pipeline.commands.command_options import SyncOptions
from pipeline.paths import STATE_DIR


def sync_journals(options: SyncOptions) -> int:
    """Delivers, and prints how much.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        OutsideError: the store is still away.
    """
    from pipeline.tracking.sync import deliver_journals

    journals, entries, problems = deliver_journals(options.tracking_uri, STATE_DIR)
    if options.as_json:
        print(json.dumps({"journals": journals, "entries": entries, "problems": problems}))
        return 0
    print(f"{journals} journal(s) delivered, {entries} entries")
    for problem in problems:
        print(f"not stored: {problem}")
    return 0
