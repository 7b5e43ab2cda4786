"""`ablate report` and `ablate compare`: from the tracking store to files and text."""

from __future__ import annotations

import multiprocessing
import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import AblateError, InputError, OutsideError, first_line
from pipeline.paths import STATE_DIR
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_store import artifact_writer
from pipeline.tracking.study_data import client_of, read_study_data
from pipeline.tracking.uri import resolve_uri, sqlite_file

if TYPE_CHECKING:
    from pipeline.tracking.study_data import StudyData


@dataclass(frozen=True)
class ReportRequest:
    """What to make of a study: the folder for it, and the options of `analysis.report.build`."""

    folder: Path
    options: dict[str, Any]


def run_report(
    study: str,
    tracking_uri: str | None,
    out: str | None,
    *,
    as_json: bool,
    paper: bool,
    memory_limit: float | None,
    margin: float,
    accuracy_margin: float,
) -> None:
    """`ablate report`: builds and writes the report, and logs it to the parent run."""
    folder = Path(out) if out else STATE_DIR / "reports" / re.sub(r"[^A-Za-z0-9._-]", "_", study)
    options = {"memory_limit_mib": memory_limit, "margin": margin, "accuracy_margin_points": accuracy_margin}
    uri = resolve_uri(tracking_uri)
    local = mlflow_sqlite.open_reader(sqlite_file(uri), study)
    with _writer(study, local, ReportRequest(folder, {**options, "paper": paper})) as ask:
        if local:
            put = artifact_writer()
            paths, lines, parent = ask(None)
        else:
            tracker = client_of(uri, study, STATE_DIR)
            paths, lines, parent = ask(read_study_data(tracker, study, curves=True))
    if as_json:
        print((folder / "report.json").read_text())
    else:
        print("\n".join(lines))
        print(f"written: {os.path.relpath(folder / 'report.html')} and {len(paths) - 1} more files")
    try:
        for path in paths if parent else ():
            if local:
                put(local.artifact_uri(parent), path, "report")
            else:
                tracker.client.log_artifact(parent, str(path), "report")
    except Exception as error:  # the artifact stores each have their own
        place = os.path.relpath(folder)
        raise OutsideError(
            f"report: written to {place}, but not logged to the parent run: {first_line(error)}"
        ) from None


Read = tuple["StudyData", str]
Written = tuple[list[Path], list[str], str]  # the files, the summary, the parent run


@contextmanager
def _writer(
    study: str, store: mlflow_sqlite.SqliteReader | None, wanted: ReportRequest
) -> Iterator[Callable[[Read | None], Written]]:
    """A process that makes the report. It imports statistics and drawing, and reads a local store, while this one
    imports MLflow and connects, or reads a store that is elsewhere: each takes seconds, and neither needs the other.
    """
    context = multiprocessing.get_context("fork")  # nothing heavy, and no thread, is here yet
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, study, store, wanted), daemon=True)
    process.start()
    theirs.close()

    def ask(found: Read | None) -> Written:
        try:
            if found is not None:
                ours.send(found)
            answer = ours.recv()
        except (EOFError, BrokenPipeError):
            process.join()
            raise OutsideError(f"the report's process ended with exit status {process.exitcode}") from None
        if isinstance(answer, BaseException):
            raise answer
        written: Written = answer
        return written

    try:
        yield ask
    finally:
        ours.close()
        process.kill()
        process.join()


def _serve(connection: Connection, study: str, store: mlflow_sqlite.SqliteReader | None, wanted: ReportRequest) -> None:
    """Makes one report, or sends back what went wrong."""
    from matplotlib.backends import backend_svg  # noqa: F401

    from pipeline.analysis.paper import audit  # noqa: F401
    from pipeline.analysis.report import figures, render  # noqa: F401

    try:
        found: Read = read_study_data(store, study, curves=True) if store else connection.recv()
        connection.send((*_write(found[0], wanted), found[1]))
    except EOFError:  # there was nothing to report
        return
    except AblateError as error:
        connection.send(error)
    except Exception as error:
        traceback.print_exc()
        connection.send(AblateError(f"report: {type(error).__name__}: {error}"))


def _write(data: StudyData, wanted: ReportRequest) -> tuple[list[Path], list[str]]:
    from pipeline.analysis.report.headlines import summary_lines
    from pipeline.analysis.report.report import build_report

    found = build_report(data, **wanted.options)
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        paths = found.write(wanted.folder)
    except OSError as error:
        raise InputError(
            f"--out: {str(wanted.folder)!r} is not allowed ({error.strerror}); allowed: a writable folder"
        ) from None
    return paths, summary_lines(found)
