"""What people see while a grid runs: a live display on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO, cast

from pipeline.design.names import EPOCH_RATE, TRAIN_LOSS
from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Metrics, Progress
from pipeline.execution import summary
from pipeline.shown import printable
from pipeline.streams import Screen, Sink

PREPARING_SECONDS = 10.0


class PlainDisplay:
    """One line per event; also what the live display prints above itself.

    Args:
        stream: where to print.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total = 0
        self._done = 0
        self._before = 0
        self._began = time.monotonic()
        self._quiet_until = 0.0
        self._lock = threading.RLock()  # a signal's handler prints too

    def line(self, text: str) -> None:
        """Prints a line at once."""
        with self._lock:
            print(printable(text), file=self._stream, flush=True)

    def preparing(self, text: str) -> None:
        """Says how far preparation is, now and then."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + PREPARING_SECONDS
            self.line(text)

    def begin(self, total: int, done: int) -> None:
        """Says what is left to do."""
        self._total, self._done, self._before = total, done, done
        self._began = time.monotonic()
        if done:
            self.line(f"resuming: {done} of {total} cells are done already, {total - done} to go")

    def started(self, run: PlannedRun) -> None:
        """A run has been launched."""
        self.line(f"started   {run.name}")

    def progress(self, run: PlannedRun, record: Progress | Metrics) -> None:
        """Plain output has no line for progress inside a run."""

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """A run has ended."""
        self._done += 1
        self.line(f"{end.outcome:<9} {run.name}  [{self._done}/{self._total}]{self._figures(end, values)}{self.eta()}")

    def _figures(self, end: End, values: Mapping[str, float]) -> str:
        if end.outcome != "finished":
            return f"  {end.error}"
        shown = [
            f"{values[name]:{form}} {unit}"
            for name, form, unit in (
                (summary.TIME, ".2f", "s"),
                (summary.RATE, ",.0f", "images/s"),
                (summary.ACCURACY, ".4f", "accuracy"),
            )
            if name in values
        ]
        return "  " + ", ".join(shown)

    def eta(self) -> str:
        """Time to go, from the mean of this call's runs."""
        ran = self._done - self._before
        left = self._total - self._done
        if ran < 1 or left < 1:
            return ""
        seconds = (time.monotonic() - self._began) / ran * left
        return f"  ETA {int(seconds // 3600)}:{int(seconds // 60) % 60:02d}:{int(seconds) % 60:02d}"

    def note(self, text: str) -> None:
        """Something worth a line."""
        self.line(text)

    def close(self) -> None:
        """Nothing is held open."""


class LiveDisplay(PlainDisplay):
    """Overall progress with ETA and the running cells, redrawn in place; ended runs scroll above.

    Args:
        stream: where to draw; None for standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.file_proxy import FileProxy
        from rich.live import Live

        from pipeline.console import make_console

        super().__init__(stream)
        self._console = make_console(stream)
        self._running: dict[str, str] = {}
        self._note = "starting"
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)
        self._live.start()
        # what others print meanwhile comes above the display, through Rich, which would obey control sequences in it
        if isinstance(sys.stdout, FileProxy):
            sys.stdout = Screen(Sink(cast(TextIO, sys.stdout), 1))
        if isinstance(sys.stderr, FileProxy):
            sys.stderr = Screen(Sink(cast(TextIO, sys.stderr), 2))

    def line(self, text: str) -> None:
        """Prints above the display."""
        self._console.print(printable(text), soft_wrap=True)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        if not self._total:
            return Text(self._note, style="dim")
        head = Text(f"{self._done}/{self._total} cells{self.eta()}")
        lines = [Text(text, overflow="ellipsis", no_wrap=True) for text in list(self._running.values())]
        return Group(head, ProgressBar(total=self._total, completed=self._done, width=60), *lines)

    def preparing(self, text: str) -> None:
        """Shows preparation in place."""
        self._note = text

    def started(self, run: PlannedRun) -> None:
        """A run has been launched."""
        self._running[run.spec.digest] = f"▶ {run.name}  starting"

    def progress(self, run: PlannedRun, record: Progress | Metrics) -> None:
        """Shows epoch, loss and images/s of a running cell."""
        epochs = run.spec.recipe.epochs
        if isinstance(record, Progress):
            loss = "" if record.loss is None else f"  loss {record.loss:.4f}"
            place = f"epoch {record.epoch}/{epochs}  step {record.update}/{record.updates}"
            text = f"{place}{loss}  {record.images_per_second:,.0f} images/s"
        elif record.step is not None:
            values = record.values
            text = f"epoch {record.step}/{epochs}"
            text += f"  loss {values[TRAIN_LOSS]:.4f}" if TRAIN_LOSS in values else ""
            text += f"  {values[EPOCH_RATE]:,.0f} images/s" if EPOCH_RATE in values else ""
        else:
            return
        self._running[run.spec.digest] = f"▶ {run.name}  {text}"

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """A run has ended."""
        self._running.pop(run.spec.digest, None)
        super().ended(run, end, values)

    def close(self) -> None:
        """Ends the live part."""
        self._live.stop()


def print_tables(found: Mapping[tuple[str, str], Sequence[summary.CellRow]], stream: TextIO | None = None) -> None:
    """Prints one table per (model, data set)."""
    from rich.table import Table

    from pipeline.console import make_console

    console = make_console(stream)
    for (model, dataset), rows in found.items():
        table = Table(title=f"{model} on {dataset}", title_justify="left")
        for number, heading in enumerate(summary.HEADINGS):
            table.add_column(heading, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*summary.cells(row))
        console.print(table)
