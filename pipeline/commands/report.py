"""`ablate report`: from the tracking store to files and text."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import host
from pipeline.children import process_context
from pipeline.commands import crash_log
from pipeline.commands.command_options import ReportOptions
from pipeline.commands.output import asked_study
from pipeline.design.names import KEY_TAG
from pipeline.errors import AblateError, InputError, OutsideError, first_line
from pipeline.paths import STATE_DIR
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_artifacts import artifact_writer
from pipeline.tracking.mlflow_errors import UndeliverableError
from pipeline.tracking.study_data import client_of, read_study_data
from pipeline.tracking.trusted import is_key
from pipeline.tracking.uri import resolve_uri, sqlite_file

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_store import MlflowStore
    from pipeline.tracking.study_data import StudyData


@dataclass(frozen=True)
class ReportRequest:
    """What to make of a study.

    Attributes:
        folder: Where the files go.
        paper: Whether the audit of the paper is part of it.
        memory_limit_mib: Largest peak GPU memory of a recommended cell, MiB; None for no limit.
        margin: Equivalence margin of ratios, as a fraction.
        accuracy_margin_points: Equivalence margin of accuracy and F1, percentage points.
        target_accuracy: Validation accuracy, as a fraction, the time to which is a response; None for the grid's.
        figures: Whether figures are files, too.
    """

    folder: Path
    paper: bool
    memory_limit_mib: float | None
    margin: float
    accuracy_margin_points: float
    target_accuracy: float | None
    figures: bool = False


def run_report(options: ReportOptions) -> int:
    """Builds and writes the report and prints a summary; with `--log` its files go to the parent run, too.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no such store, study or folder.
        OutsideError: the store failed; what was written stays.
    """
    study, experiment = asked_study(options.study, options.tracking_uri)
    folder = Path(options.out) if options.out else STATE_DIR / "reports" / re.sub(r"[^A-Za-z0-9._-]", "_", study)
    wanted = (options.paper, options.memory_limit, options.margin, options.accuracy_margin, options.target_accuracy)
    request = ReportRequest(folder, *wanted, options.figures)
    uri = resolve_uri(options.tracking_uri)
    local = mlflow_sqlite.open_reader(sqlite_file(uri), experiment)
    store: MlflowStore | None = None
    put: Callable[[str, Path, str], None] | None = None
    with _writer(study, local, request) as ask:
        if local:
            put = artifact_writer(uri, STATE_DIR / "artifacts") if options.log else None
            paths, lines, failed, parent = ask(None)
        else:
            store = client_of(uri, experiment, STATE_DIR)
            paths, lines, failed, parent = ask(
                read_study_data(store, study, curves=True, target_accuracy=options.target_accuracy)
            )
    if options.as_json:
        print(json.dumps(json.loads((folder / "report.json").read_text(encoding="utf-8")), indent=1))
    else:
        print("\n".join(lines))
        print(f"written: {os.path.relpath(folder / 'report.html')} and {len(paths) - 1} more files")
    if options.log:
        _log(folder, paths, parent, local, store, put)
    if failed:
        raise AblateError(f"report: written to {os.path.relpath(folder)} without {len(failed)} figure(s): {failed[0]}")
    return 0


def _log(
    folder: Path,
    paths: list[Path],
    parent: str,
    local: mlflow_sqlite.SqliteReader | None,
    store: MlflowStore | None,
    put: Callable[[str, Path, str], None] | None,
) -> None:
    """Puts the files on the parent run, if it is ours: a row that another program has made stays as it is."""
    try:
        reader = local or store
        ours = parent and reader and is_key(reader.tags_of(parent).get(KEY_TAG))
        for path in paths if ours else ():
            if local and put:
                put(local.artifact_uri(parent), path, "report")
            elif store:
                store.log_artifact(parent, path, "report")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not local:
            raise OutsideError(_not_logged(folder, error)) from None
        # whoever may only read the store has the report all the same
        print(f"ablate: {_not_logged(folder, error)}", file=sys.stderr)
    except UndeliverableError as error:
        if not (local and local.artifact_uri(parent).startswith(("file:", "/"))):
            raise OutsideError(_not_logged(folder, error)) from None
        # a store that was copied from another folder has its artifacts there still
        print(f"ablate: {_not_logged(folder, error)}", file=sys.stderr)
    except Exception as error:  # the artifact stores each have their own
        raise OutsideError(_not_logged(folder, error)) from None


def _not_logged(folder: Path, error: Exception) -> str:
    return f"report: written to {os.path.relpath(folder)}, but not logged to the parent run: {first_line(error)}"


Read = tuple["StudyData", str]
Written = tuple[list[Path], list[str], list[str], str]  # the files, the summary, what failed, the parent run


@contextmanager
def _writer(
    study: str, store: mlflow_sqlite.SqliteReader | None, request: ReportRequest
) -> Iterator[Callable[[Read | None], Written]]:
    """Starts a process that makes the report, and ends it.

    It imports statistics and drawing, and reads a local store, while this one imports MLflow and connects, or reads a
    store that is elsewhere: each takes seconds, and neither needs the other.
    """
    context = process_context("fork")  # nothing heavy, and no thread, is here yet
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(os.getpid(), theirs, study, store, request), daemon=True)
    process.start()
    theirs.close()

    def ask(given: Read | None) -> Written:
        try:
            if given is not None:
                ours.send(given)
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


def _serve(
    parent_pid: int,
    connection: Connection,
    study: str,
    store: mlflow_sqlite.SqliteReader | None,
    request: ReportRequest,
) -> None:
    """Makes one report, or sends back what went wrong."""
    host.leave_signals_to_parent()
    host.die_with_parent()
    if os.getppid() != parent_pid:
        return
    from pipeline.analysis.report import drawing, files  # noqa: F401

    with contextlib.suppress(Exception):  # told when something is to be drawn
        drawing.load_matplotlib()
    try:
        if store:
            data, parent = read_study_data(store, study, curves=True, target_accuracy=request.target_accuracy)
        else:
            data, parent = connection.recv()
        connection.send((*_write(data, request), parent))
    except EOFError:  # there was nothing to report
        return
    except AblateError as error:
        connection.send(error)
    except Exception as error:
        connection.send(AblateError(f"report: {crash_log.told(error)}"))


def _write(study: StudyData, request: ReportRequest) -> tuple[list[Path], list[str], list[str]]:
    """Analyses a study and writes its report; returns the files, the lines of the summary, and what failed."""
    from pipeline.analysis.effects import estimate
    from pipeline.analysis.paper.audit import audit_paper
    from pipeline.analysis.report.files import write_report
    from pipeline.analysis.report.headlines import summary_lines
    from pipeline.analysis.report.report import build_report

    effects = estimate(
        study,
        margin=request.margin,
        accuracy_margin_points=request.accuracy_margin_points,
        target_accuracy=study.target_accuracy,
    )
    audit = audit_paper(study, effects) if request.paper else None
    report = build_report(study, effects, memory_limit_mib=request.memory_limit_mib, audit=audit)
    failed: list[str] = []
    try:
        paths = write_report(report, request.folder, failed.append, figures=request.figures)
    except OSError as error:
        raise InputError(
            f"--out: {str(request.folder)!r} is not allowed ({error.strerror}); allowed: a writable folder"
        ) from None
    return paths, summary_lines(report), failed
