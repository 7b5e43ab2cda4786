"""`ablate rename` and `ablate delete`: a study's experiment, and what belongs to it in this folder."""

from __future__ import annotations

import json

from pipeline.children import finished_module
from pipeline.commands import removal
from pipeline.commands.command_options import DeleteOptions, RenameOptions
from pipeline.commands.output import stream_for_progress
from pipeline.design.spec import Frozen, SafeName
from pipeline.design.study import validated
from pipeline.errors import OutsideError, not_allowed
from pipeline.paths import STATE_DIR, own_state_dir
from pipeline.tracking.uri import resolve_uri, sqlite_file

PURGE_SECONDS = 600.0  # that MLflow may take to remove rows and artifacts


class _NewName(Frozen):
    name: SafeName


def rename_study(options: RenameOptions) -> int:
    """Renames, after having asked.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no such study, a controller is at work on it, or the name is not free or not allowed.
        OutsideError: the store does not answer.
    """
    from pipeline.tracking.experiments import held_study, reports_of

    validated(_NewName, {"name": options.new}, "NEW")
    out = stream_for_progress(options.as_json)
    own_state_dir(STATE_DIR, create=False)
    with held_study(options.study, options.tracking_uri, STATE_DIR) as study:
        document = {"study": options.study, "new": options.new, "runs": study.runs, "done": False}
        print(f"study {options.study} with {study.runs} runs becomes {options.new}", file=out)
        if study.reports.exists():
            print(f"  {study.reports} becomes {reports_of(STATE_DIR, options.new)}", file=out)
        if not options.dry_run and removal.confirmed("rename it?", yes=options.yes):
            study.rename(options.new)
            document["done"] = True
    if options.as_json:
        print(json.dumps(document, indent=1))
    elif document["done"]:
        print(f"its grid goes on with the same call and --name {options.new}")
    return 0


def delete_study(options: DeleteOptions) -> int:
    """Deletes, after having asked.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no such study, a controller is at work on it, or nobody can be asked.
        OutsideError: the store does not answer, or something cannot be removed.
    """
    from pipeline.tracking.experiments import held_study

    uri = resolve_uri(options.tracking_uri)
    if options.purge and sqlite_file(uri) is None:  # another one's address may have a password, which others would see
        raise not_allowed("--purge", "another store", "a SQLite file; elsewhere an administrator runs `mlflow gc`")
    out = stream_for_progress(options.as_json)
    own_state_dir(STATE_DIR, create=False)
    with held_study(options.study, options.tracking_uri, STATE_DIR) as study:
        paths = study.files()
        files = [{"path": str(path), "bytes": removal.size_of(path)} for path in paths]
        document = {"study": options.study, "runs": study.runs, "files": files, "renamed": None, "purged": False}
        print(f"study {options.study}: {study.runs} runs in the tracking store, and in this folder", file=out)
        print("\n".join(removal.sized_lines(paths)), file=out)
        if not options.dry_run and removal.confirmed("delete it?", yes=options.yes):
            document["renamed"] = study.delete()
            removal.remove(paths)
            if options.purge:
                _purge(uri, study.experiment_id)
                document["purged"] = True
    if options.as_json:
        print(json.dumps(document, indent=1))
    elif document["purged"]:
        print("deleted for good")
    elif document["renamed"]:
        where = "" if sqlite_file(uri) is None else f" --tracking-uri {uri} --backend-store-uri {uri}"
        print(f"deleted; its runs are in the experiment {document['renamed']!r}, which MLflow can restore")
        print(f"for good: mlflow gc{where} --experiment-ids {study.experiment_id}")
    return 0


def _purge(uri: str, experiment_id: str) -> None:
    """Has MLflow remove a deleted experiment's rows and artifacts."""
    words = ("gc", "--tracking-uri", uri, "--backend-store-uri", uri, "--experiment-ids", experiment_id)
    try:
        done = finished_module("mlflow", *words, timeout=PURGE_SECONDS)
        problem = "" if done.code == 0 else (done.err.strip().splitlines() or ["mlflow gc failed"])[-1]
    except TimeoutError as error:
        problem = f"mlflow gc has not ended within {error}"
    if problem:
        raise OutsideError(f"--purge: {problem} (the study is deleted, and can be restored)")
