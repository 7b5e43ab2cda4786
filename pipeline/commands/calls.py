"""What every call of a command has: an end by a signal. Light: `--help` imports it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from pipeline.execution import interrupt


def stoppable() -> AbstractContextManager[None]:
    """Within it every signal that would end the process raises KeyboardInterrupt."""
    return interrupt.raised()


def interrupted() -> int:
    """Says how to go on, and returns the exit code of an interrupted call."""
    print(f"ablate: interrupted; go on with: {interrupt.resume_command()}", file=sys.stderr, flush=True)
    return interrupt.INTERRUPTED
