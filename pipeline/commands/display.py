"""What people see while a grid runs: a live display on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO, cast

from pipeline.design.names import EPOCH_RATE, TOTAL_SECONDS, TRAIN_LOSS
from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Metrics, Phase, Progress
from pipeline.design.spec import RunSpec
from pipeline.execution import summary
from pipeline.execution.forecast import Forecast, forecast_text, params_of, seconds_left
from pipeline.shown import printable
from pipeline.streams import Screen, Sink

PREPARING_SECONDS = 10.0  # between two lines about one step of preparation
_STEP_SECONDS = 2.0  # before a line about another one: short ones have none
_DIGITS = re.compile(r"\d+")
_MANY = 500  # cells of which the time to go is not added up again at every end
_MANY_SECONDS = 5.0
_BAR = 40  # columns


class PlainDisplay:
    """One line per event; also what the live display prints above itself.

    Args:
        stream: where to print.
        known: times of cells like those that will run; None for nothing known.

    Attributes:
        verbose: whether the phases of runs are told, on standard error.
    """

    verbose = False

    def __init__(self, stream: TextIO | None = None, known: Forecast | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total = 0
        self._done = 0
        self._before = 0
        self._jobs = 1
        self._began = time.monotonic()
        self._preparing, self._prepared = "", -math.inf
        self._lock = threading.RLock()  # a signal's handler prints too
        self._forecast = known or Forecast()
        self._left: dict[str, RunSpec] = {}
        self._started: dict[str, float] = {}
        self._work = 0.0  # s of this call's ended cells
        self._eta = (-math.inf, "")
        self._whole = True  # whether the time of all cells has been told

    def line(self, text: str) -> None:
        """Prints a line at once."""
        with self._lock:
            print(printable(text), file=self._stream, flush=True)

    def preparing(self, text: str) -> None:
        """Says what is prepared, and how far it is now and then."""
        now = time.monotonic()
        what = _DIGITS.sub("", text)
        pause = PREPARING_SECONDS if what == self._preparing else _STEP_SECONDS
        if now >= self._prepared + pause:
            self._preparing, self._prepared = what, now
            self.line(text)

    def begin(self, total: int, done: int, left: Sequence[RunSpec] = (), jobs: int = 1) -> None:
        """Says what is left to do, and how long that will take as far as it is known."""
        self._total, self._done, self._before, self._jobs = total, done, done, jobs
        self._began = time.monotonic()
        self._work = 0.0
        self._left = {spec.digest: spec for spec in left}
        if done:
            self.line(f"resuming: {done} of {total} cells are done already, {total - done} to go")
        if left and self._forecast.measured:
            self.line(forecast_text(self._forecast.of(left), jobs))
        self._whole = not left or not self._forecast.of(left).unknown

    def started(self, run: PlannedRun) -> None:
        """A run has been launched."""
        self._started[run.spec.digest] = time.time()
        self.line(f"started   {run.name}")

    def progress(self, run: PlannedRun, record: Progress | Metrics | Phase) -> None:
        """Plain output has no line for progress inside a run; its rate tells how long cells like it will take."""
        if isinstance(record, Phase) and self.verbose:
            text = f"{time.strftime('%H:%M:%S', time.localtime(record.time))}  {run.name}: {record.name}"
            print(printable(f"{text}  ({run.spec.digest[:12]})"), file=sys.stderr, flush=True)
        if isinstance(record, Progress) and (left := seconds_left(run.spec, record)) is not None:
            began = self._started.get(run.spec.digest, record.time)
            self._forecast.suppose(run.spec, max(0.0, record.time - began) + left)

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """A run has ended."""
        self._done += 1
        self._left.pop(run.spec.digest, None)
        self._started.pop(run.spec.digest, None)
        if end.outcome == "finished" and TOTAL_SECONDS in values:
            self._forecast.learn(params_of(run.spec), values[TOTAL_SECONDS])
            self._work += values[TOTAL_SECONDS]
        self.line(f"{end.outcome:<9} {run.name}  [{self._done}/{self._total}]{self._figures(end, values)}{self.eta()}")
        if not self._whole and self._left and not (expected := self._forecast.of(self._left.values())).unknown:
            self._whole = True
            self.line(forecast_text(expected, self._jobs))

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
        """Time to go, from the times of cells like those that are left; at least, where those of some are not known."""
        ran = self._done - self._before
        left = self._total - self._done
        if ran < 1 or left < 1:
            return ""
        now = time.monotonic()
        if len(self._left) <= _MANY or now - self._eta[0] >= _MANY_SECONDS:
            self._eta = (now, self._eta_of(ran, left, now - self._began))
        return self._eta[1]

    def _eta_of(self, ran: int, left: int, elapsed: float) -> str:
        if not self._left:  # nobody has said what is left: trials, of which each may be another
            return f"  ETA {_clock(elapsed / ran * left)}"
        expected = self._forecast.of(list(self._left.values()))
        # what is between cells, and how many run at once, is in the time that this call has taken for its own
        pace = elapsed / self._work if self._work else 1 / self._jobs
        return (
            f"  ETA {'over ' if expected.unknown else ''}{_clock(expected.seconds * pace)}" if expected.seconds else ""
        )

    def note(self, text: str) -> None:
        """Something worth a line."""
        self.line(text)

    def close(self) -> None:
        """Nothing is held open."""


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds // 60) % 60:02d}:{int(seconds) % 60:02d}"


class LiveDisplay(PlainDisplay):
    """Overall progress with ETA and the running cells, redrawn in place; ended runs scroll above.

    Args:
        stream: where to draw; None for standard output.
        known: see `PlainDisplay`.
    """

    def __init__(self, stream: TextIO | None = None, known: Forecast | None = None) -> None:
        from rich.file_proxy import FileProxy
        from rich.live import Live

        from pipeline.console import make_console

        super().__init__(stream, known)
        self._console = make_console(stream)
        self._running: dict[str, tuple[str, str]] = {}  # digest -> name and what it does
        self._note = "starting"
        self._noted = time.monotonic()
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
        from rich.text import Text

        if not self._total:
            waited = int(time.monotonic() - self._noted)
            return Text(self._note + (f"  ({waited} s)" if waited >= 2 else ""), style="dim", overflow="fold")
        width = self._console.width
        lines = [self._head(width)]
        for name, text in list(self._running.values()):
            # a name is never cut: where both have no room in a line, each has its own
            short = len(name) + len(text) + 4 <= width
            lines += [f"▶ {name}  {text}"] if short else [f"▶ {name}", f"    {text}"]
        return Group(*(Text(each, overflow="fold") for each in lines))

    def _head(self, width: int) -> str:
        head = f"{self._done}/{self._total} cells{self.eta()}"
        room = min(_BAR, width - len(head) - 2)
        filled = round(room * self._done / self._total)
        return f"{head}  {'━' * filled}{'─' * (room - filled)}" if room >= 10 else head

    def preparing(self, text: str) -> None:
        """Shows preparation in place."""
        if _DIGITS.sub("", text) != _DIGITS.sub("", self._note):
            self._noted = time.monotonic()
        self._note = text

    def started(self, run: PlannedRun) -> None:
        """A run has been launched."""
        self._started[run.spec.digest] = time.time()
        self._running[run.spec.digest] = (run.name, "starting")

    def progress(self, run: PlannedRun, record: Progress | Metrics | Phase) -> None:
        """Shows epoch, loss, images/s and time to go of a running cell."""
        super().progress(run, record)
        epochs = run.spec.recipe.epochs
        if isinstance(record, Progress):
            left = seconds_left(run.spec, record)
            loss = "" if record.loss is None else f"  loss {record.loss:.4f}"
            place = f"epoch {record.epoch}/{epochs}  step {record.update}/{record.updates}"
            text = f"{place}{loss}  {record.images_per_second:,.0f} images/s"
            text += "" if left is None else f"  ETA {_clock(left)}"
        elif isinstance(record, Metrics) and record.step is not None:
            values = record.values
            text = f"epoch {record.step}/{epochs}"
            text += f"  loss {values[TRAIN_LOSS]:.4f}" if TRAIN_LOSS in values else ""
            text += f"  {values[EPOCH_RATE]:,.0f} images/s" if EPOCH_RATE in values else ""
        else:
            return
        self._running[run.spec.digest] = (run.name, text)

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """A run has ended."""
        self._running.pop(run.spec.digest, None)
        super().ended(run, end, values)

    def close(self) -> None:
        """Ends the live part."""
        self._live.stop()


class QuietDisplay(PlainDisplay):
    """Nothing but runs that did not finish, on standard error."""

    def line(self, text: str) -> None:
        """Nothing is told."""

    def ended(self, run: PlannedRun, end: End, values: dict[str, float]) -> None:
        """Tells of a run that did not finish."""
        super().ended(run, end, values)
        if end.outcome != "finished":
            print(printable(f"{end.outcome}  {run.name}  {end.error}"), file=sys.stderr, flush=True)


def print_tables(found: Mapping[tuple[str, str], Sequence[summary.CellRow]], stream: TextIO | None = None) -> None:
    """Prints one table per (model, data set); where there is no room for all columns, some are left out."""
    from rich.table import Table

    from pipeline.console import make_console

    console = make_console(stream)
    texts = {pair: [summary.cells(row) for row in rows] for pair, rows in found.items()}
    shown = summary.fitting([row for rows in texts.values() for row in rows], console.width)
    for (model, dataset), rows in texts.items():
        table = Table(title=f"{model} on {dataset}", title_justify="left")
        for number in shown:
            justify: Literal["left", "right"] = "left" if number == 0 else "right"
            table.add_column(summary.HEADINGS[number], justify=justify, no_wrap=number > 0, overflow="fold")
        for row in rows:
            table.add_row(*(row[number] for number in shown))
        console.print(table)
    if left_out := [heading for number, heading in enumerate(summary.HEADINGS) if number not in shown]:
        console.print(f"no room for: {', '.join(left_out)}", soft_wrap=True)
