"""`ablate techniques`: the table of techniques in words, for people, for programs and for the documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.design.names import LAUNCHES
from pipeline.design.options import JsonOptions
from pipeline.design.techniques import DEVICES, TECHNIQUES, Technique


def _levels(technique: Technique) -> list[str]:
    defaults = [technique.default[device] for device in DEVICES]
    if len(set(defaults)) > 1:
        defaults = [f"{level} on {device}" for level, device in zip(defaults, DEVICES, strict=True)]
    default = ", ".join(dict.fromkeys(defaults))
    return [default if technique.allowed == default else f"{default} (allowed: {technique.allowed})"]


def _saves(technique: Technique) -> list[str]:
    return ["launching kernels" if phase == LAUNCHES else phase for phase in technique.saves]


TECHNIQUE_COLUMNS: Mapping[str, Callable[[Technique], Sequence[str]]] = {
    "name": lambda technique: [technique.name],
    "what it does": lambda technique: [technique.description],
    "owns": lambda technique: technique.owns,
    "level": _levels,
    "devices": lambda technique: [device for device in DEVICES if device in technique.devices],
    "requires": lambda technique: technique.needs(),
    "preserves": lambda technique: [technique.preserves],
    "can save": _saves,
    "inert on": lambda technique: [device for device in DEVICES if device in technique.inert_on],
}
_CODE = ("name", "owns")  # in the columns of names of the program


def markdown_table(columns: Sequence[str] = tuple(TECHNIQUE_COLUMNS)) -> str:
    """Renders the table of techniques in Markdown, one line for each.

    Args:
        columns: Keys of `TECHNIQUE_COLUMNS`, in the order to show them.

    Returns:
        The lines, the last one without a newline.
    """
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    for technique in TECHNIQUES.values():
        cells = []
        for column in columns:
            words = TECHNIQUE_COLUMNS[column](technique)
            cells.append(", ".join(f"`{word}`" if column in _CODE else word for word in words))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def technique_document(technique: Technique) -> dict[str, Any]:
    """What is said of a technique, for programs."""
    return {
        "name": technique.name,
        "description": technique.description,
        "owns": list(technique.owns),
        "levels": {"default": dict(technique.default), "allowed": technique.allowed},
        "devices": [device for device in DEVICES if device in technique.devices],
        "requires": technique.needs(),
        "preserves": technique.preserves,
        "saves": list(technique.saves),
        "inert_on": [device for device in DEVICES if device in technique.inert_on],
    }


def list_techniques(options: JsonOptions) -> int:
    """Prints every technique: a drawn table on a terminal, Markdown with one line for each elsewhere.

    Args:
        options: of the command.

    Returns:
        The exit code.
    """
    if options.as_json:
        print(
            json.dumps({"techniques": [technique_document(technique) for technique in TECHNIQUES.values()]}, indent=1)
        )
    elif sys.stdout.isatty():
        _draw()
    else:
        print(markdown_table())
    return 0


def _draw() -> None:
    from rich.table import Table
    from rich.text import Text

    from pipeline.console import make_console

    shown = [column for column in TECHNIQUE_COLUMNS if column not in ("owns", "what it does")]
    table = Table(*shown, "what it does", show_lines=True)
    for technique in TECHNIQUES.values():
        table.add_row(*(Text(", ".join(TECHNIQUE_COLUMNS[column](technique))) for column in [*shown, "what it does"]))
    make_console().print(table)
