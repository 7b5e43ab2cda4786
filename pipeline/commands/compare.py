"""`ablate compare`: the same cells of two studies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command_options import CompareOptions
from pipeline.errors import InputError
from pipeline.paths import STATE_DIR, write_atomically
from pipeline.tracking.study_data import load_study_data

if TYPE_CHECKING:
    from pipeline.analysis.comparison import Comparison


def run_compare(options: CompareOptions) -> int:
    """Prints B against A, cell by cell and effect by effect, and ends with the conclusion.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: a study or the folder is not there, or the two have no cell in common.
    """
    from pipeline.analysis import comparison

    uri_b = options.tracking_uri_b or options.tracking_uri
    first, _ = load_study_data(options.study_a, options.tracking_uri, STATE_DIR, curves=False)
    second, _ = load_study_data(options.study_b, uri_b, STATE_DIR, curves=False)
    compared = comparison.compare_studies(first, second)
    print(compared.to_json() if options.as_json else compared.to_markdown())
    if options.out is not None:
        written = _write(compared, Path(options.out))
        if not options.as_json:
            print(f"written: {', '.join(os.path.relpath(path) for path in written)}")
    return 0


def _write(compared: Comparison, folder: Path) -> list[Path]:
    """Writes a comparison into a folder: the same as is printed, and its tables as CSV."""
    from pipeline.analysis.report.render import csv_text

    texts = {
        "compare.md": compared.to_markdown(),
        "compare.json": compared.to_json() + "\n",
        "cells.csv": csv_text(compared.cells),
        "effects.csv": csv_text(compared.effects),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            write_atomically(folder / name, content)
    except OSError as error:
        why = f"({error.strerror}); allowed: a writable folder"
        raise InputError(f"--out: {str(folder)!r} is not allowed {why}") from None
    return [folder / name for name in texts]
