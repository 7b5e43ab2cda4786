"""`ablate sync`: delivery of what journals hold and the store has not got yet."""

from __future__ import annotations

import json

from pipeline.commands.command_options import SyncOptions
from pipeline.errors import OutsideError
from pipeline.paths import STATE_DIR, own_state_dir


def sync_journals(options: SyncOptions) -> int:
    """Delivers, and prints how much.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: the folder with the journals is not only ours.
        OutsideError: the store is still away, or not everything could be delivered.
    """
    from pipeline.tracking.sync import deliver_journals

    own_state_dir(STATE_DIR, create=False)
    done = deliver_journals(options.tracking_uri, STATE_DIR, everything=options.all)
    if options.as_json:
        print(json.dumps({"journals": done.journals, "entries": done.entries, "problems": done.problems}))
    else:
        print(f"{done.journals} journal(s) delivered, {done.entries} entries")
        for problem in done.problems:
            print(f"not stored: {problem}")
    if done.problems:
        more = f" (and {len(done.problems) - 1} more)" if len(done.problems) > 1 else ""
        raise OutsideError(f"not everything was delivered: {done.problems[0]}{more}")
    return 0
