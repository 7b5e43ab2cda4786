"""The two kinds of failure that end a command, each with its exit code.

Anything else that goes wrong inside one training run is an *outcome* of that run (see `spec.Outcome`) and
never ends the grid.
"""

from __future__ import annotations

from pipeline.shown import printable, redacted


class AblateError(Exception):
    """Base of the errors that end a command with one line on stderr; an address in it never shows a password."""

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__(redacted(text))


class InputError(AblateError):
    """Wrong usage or input: names the field, the bad value and what is allowed (exit code 2)."""

    exit_code = 2


class OutsideError(AblateError):
    """Something outside the program failed: tracking server, disk, device, network (exit code 3)."""

    exit_code = 3


def not_allowed(where: str, value: object, allowed: str) -> InputError:
    """Builds the one-line message that the contract asks for: field, bad value, what is allowed."""
    try:
        shown = printable(redacted(repr(value)))
    except ValueError:  # Python writes no number of more than 4,300 digits
        shown = "a number of thousands of digits"
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InputError(f"{where}: {shown} is not allowed; allowed: {allowed}")


def suggest(name: str, known: list[str], shown: int = 12) -> str:
    """Lists what is allowed for an unknown name, nearest spelling first."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    listed = ", ".join(known[:shown]) + (", ..." if len(known) > shown else "")
    return f"{listed} (did you mean {near[0]}?)" if near else listed


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text without credentials, or its class where it has no text.

    Args:
        error: any exception.
        limit: the most characters.
    """
    lines = str(error).strip().splitlines()
    return redacted(lines[0] if lines else type(error).__name__)[:limit]
