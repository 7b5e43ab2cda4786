"""What commands share: the default study, who shows what happens, and how a call ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.commands.calls import interrupted
from pipeline.commands.display import LiveDisplay, PlainDisplay, QuietDisplay
from pipeline.design.options import CallOptions, PlanOptions, TuneOptions
from pipeline.errors import OutsideError
from pipeline.execution import device, interrupt
from pipeline.execution.forecast import Forecast
from pipeline.paths import STATE_DIR, default_data_dir
from pipeline.shown import printable, redacted
from pipeline.tracking.uri import resolve_uri


def default_study() -> str:
    """The study that `ablate grid` without `--study` runs here."""
    return os.environ.get("ABLATE_STUDY") or ("paper" if device.resolve_device("auto") == "cuda" else "quickstart")


def asked_study(study: str | None, tracking_uri: str | None) -> tuple[str, str]:
    """What `ablate status` and `ablate report` are about.

    Args:
        study: its name or file; None for the one that was worked on last, which is said on standard error.
        tracking_uri: the flag's value.

    Returns:
        The study's name, and that of the experiment that its runs are in.

    Raises:
        InputError: a tracking URI that is not allowed.
        OutsideError: the store cannot be reached.
    """
    study = study or os.environ.get("ABLATE_NAME") or os.environ.get("ABLATE_STUDY")
    if study is None and not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        from pipeline.tracking.study_data import last_study
        from pipeline.tracking.uri import resolve_uri

        last = last_study(resolve_uri(tracking_uri), STATE_DIR)
        if last is not None:
            print(f"study {last[0]}: the one that was worked on last", file=sys.stderr, flush=True)
            return last
    experiment = experiment_of(study)
    return (name_of_study(study) if study else experiment), experiment


def name_of_study(study: str) -> str:
    """The name of a study that is named or whose file is."""
    if study.endswith((".yaml", ".yml")):
        from pipeline.design.study import load_study

        return load_study(study).name
    return study


def experiment_of(study: str | None) -> str:
    """The experiment that a study's runs are in.

    Args:
        study: its name or file; None for the default.
    """
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or name_of_study(study or default_study())


def tell_places(options: PlanOptions | TuneOptions) -> None:
    """Says where files are, with `--verbose`."""
    if options.verbose:
        data = Path(options.data_dir) if options.data_dir else default_data_dir()
        places = {"store": redacted(resolve_uri(options.tracking_uri)), "state": STATE_DIR.resolve(), "data": data}
        text = "; ".join(f"{name} {place}" for name, place in places.items())
        print(printable(f"files: {text}; a run's log: {STATE_DIR}/work/DIGEST"), file=sys.stderr, flush=True)


def stream_for_progress(as_json: bool) -> TextIO:
    """Where progress is shown: standard output is the document's alone where one is asked for."""
    return sys.stderr if as_json else sys.stdout


@contextmanager
def shown_on(out: TextIO, options: CallOptions, known: Forecast | None = None) -> Iterator[PlainDisplay]:
    """Shows what happens: redrawn in place on a terminal, one line per event elsewhere.

    Args:
        out: standard output or standard error.
        options: of the command: how much is told.
        known: times of cells like those that will run; None for nothing known.
    """
    live = out.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    if options.quiet:
        display: PlainDisplay = QuietDisplay(out, known)
    else:
        display = LiveDisplay(out, known) if live else PlainDisplay(out, known)
    display.verbose = options.verbose
    try:
        yield display
    finally:
        display.close()


def not_stored(problems: Sequence[str]) -> list[str]:
    """Lines about what the tracking store refused for good; the first ones tell the cause.

    Args:
        problems: what it said.
    """
    return [f"not stored: {problem}" for problem in problems[:5]]


def exit_code(*, broken: str | None, was_interrupted: bool, delivered: bool, cause: str | None, complete: bool) -> int:
    """The exit code of a call that trained.

    Args:
        broken: what stopped it from outside; None for nothing.
        was_interrupted: whether it was interrupted.
        delivered: whether the tracking store has everything.
        cause: why it has not; None where that is not known.
        complete: whether everything that was wanted is there.

    Raises:
        OutsideError: it was stopped from outside, or the store has not everything.
    """
    if broken is not None:
        raise OutsideError(f"{broken}; what was journaled is kept, go on with: {interrupt.resume_command()}")
    if was_interrupted:
        return interrupted()
    if not delivered:
        cause = cause or "the store does not answer"
        raise OutsideError(f"tracking store: not everything was delivered ({cause}); `ablate sync` will deliver it")
    return 0 if complete else 1
