"""`ablate data`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any


def _data_dir(data_dir: str | None) -> Path:
    from pipeline.paths import default_data_dir

    return Path(data_dir) if data_dir else default_data_dir()


def prepare_data(names: tuple[str, ...], data_dir: str | None) -> None:
    """`ablate data prepare`: with a progress bar on a terminal, one line per data set elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.design import catalog

    for name in names:
        catalog.dataset(name)
    from pipeline.training.data import store

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    for name in names:
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task(name, total=None)
            source = store.prepare_dataset(
                name,
                _data_dir(data_dir),
                image_size=32,
                check=True,
                report=partial(_advance, bar, task),
            )
        train, test = len(source.train_labels), len(source.test_labels)
        print(f"{name}: {train} training and {test} test images, {len(source.class_names)} classes")


def _advance(bar: Any, task: Any, text: str, done: int, total: int) -> None:
    bar.update(task, description=text, completed=done, total=total)


def verify_data(names: tuple[str, ...], data_dir: str | None) -> int:
    """`ablate data verify`; returns the exit code."""
    from pipeline.design import catalog

    for name in names:
        catalog.dataset(name)
    from pipeline.training.data import store

    bad = 0
    for name in names:
        problems = store.verify_dataset(name, _data_dir(data_dir))
        bad += bool(problems)
        print(f"{name}: " + ("; ".join(problems) if problems else "ok"))
    return 1 if bad else 0
