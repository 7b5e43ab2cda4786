"""`ablate data`: data sets are prepared, and checked against their checksums."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.commands.command_options import DataOptions
from pipeline.paths import default_data_dir

IMAGE_SIZE = 32


def prepare_data(options: DataOptions) -> int:
    """Downloads or builds data sets: with a progress bar on a terminal, one line per data set elsewhere.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no such data set; nothing has been prepared then.
        OutsideError: a download or the disk failed.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    _check_names(options.names)
    from pipeline.console import make_console
    from pipeline.training.data import store

    console = make_console(sys.stderr)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    for name in options.names:
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task(name, total=None)
            source = store.prepare_dataset(
                name,
                _folder(options),
                image_size=IMAGE_SIZE,
                skip_unreadable=options.skip_unreadable,
                check=True,
                report=partial(_advance, bar, task),
            )
        train, test = len(source.train_labels) - source.held_out, len(source.test_labels)
        held_out = f", {source.held_out} validation" if source.held_out else ""
        print(f"{name}: {train} training{held_out} and {test} test images, {len(source.class_names)} classes")
        for remark in source.listing.remarks if source.listing is not None else ():
            print(f"{name}: {remark}")
    return 0


def verify_data(options: DataOptions) -> int:
    """Checks prepared data sets and prints a line for each.

    Args:
        options: of the command.

    Returns:
        The exit code: 1 if something is wrong with one of them.

    Raises:
        InputError: no such data set.
    """
    _check_names(options.names)
    from pipeline.training.data import store

    bad = 0
    for name in options.names:
        problems = store.verify_dataset(name, _folder(options), options.skip_unreadable)
        bad += bool(problems)
        print(f"{name}: " + ("; ".join(problems) if problems else "ok"))
    return 1 if bad else 0


def _check_names(names: tuple[str, ...]) -> None:
    """All are looked up first: nothing is downloaded for a list with a slip of the pen in it."""
    from pipeline.design import catalog

    for name in names:
        catalog.dataset(name)


def _folder(options: DataOptions) -> Path:
    return Path(options.data_dir) if options.data_dir else default_data_dir()


def _advance(bar: Any, task: Any, text: str, done: int, total: int) -> None:
    bar.update(task, description=text, completed=done, total=total)
