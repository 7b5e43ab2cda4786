"""The two kinds of failure that end a command, each with its exit code.

Anything else that goes wrong inside one training run is an *outcome* of that run (see `spec.Outcome`) and
never ends the grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
    """Lists what is allowed for an unknown name, with the nearest spelling at the end."""
    return ", ".join(known[:shown]) + (", ..." if len(known) > shown else "") + meant(name, known)


def meant(name: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """Asks whether the known name of the nearest spelling was meant; empty where none is near.

    Args:
        name: as it was typed.
        known: names, or names and what to type for each.
    """
    import difflib

    typed = known if isinstance(known, Mapping) else {each: each for each in known}
    by_spelling = {each.lower().replace("-", "_"): text for each, text in typed.items()}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), by_spelling, n=1)
    return f" (did you mean {by_spelling[near[0]]}?)" if near else ""


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text without credentials, or its class where it has no text.

    Args:
        error: any exception.
        limit: the most characters.
    """
    lines = str(error).strip().splitlines()
    return redacted(lines[0] if lines else type(error).__name__)[:limit]
