"""Sends files to the artifacts of runs: only to where files of ours may go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.shown import printable, redacted
from pipeline.tracking.mlflow_connection import set_environment
from pipeline.tracking.mlflow_errors import UndeliverableError
from pipeline.tracking.mlflow_log import log_to_file
from pipeline.tracking.trusted import writable


def allow(artifact_uri: str, tracking_uri: str, artifacts: Path) -> None:
    """Lets nothing be sent elsewhere than `trusted.writable` says.

    Args:
        artifact_uri: where a row says that its artifacts are.
        tracking_uri: the store's, absolute.
        artifacts: folder for the artifacts of a local store.

    Raises:
        UndeliverableError: it is elsewhere.
    """
    if not writable(artifact_uri, tracking_uri, artifacts):
        raise UndeliverableError(
            f"artifacts of this run would go to {printable(redacted(artifact_uri))[:200]}, which is neither the "
            "tracking server nor a folder of ours; set MLFLOW_DEFAULT_ARTIFACT_ROOT to allow it"
        )


def artifact_writer(tracking_uri: str, artifacts: Path) -> Callable[[str, Path, str], None]:
    """Imports what writes artifacts, which takes seconds.

    Args:
        tracking_uri: the store's, absolute.
        artifacts: folder for the artifacts of a local store.

    Returns:
        A function that puts a file into a folder of a run's artifacts, given their URI.
    """
    set_environment()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils import uri as addresses

    log_to_file()
    names: Any = addresses  # it is not typed

    def write(uri: str, path: Path, folder: str) -> None:
        allow(uri, tracking_uri, artifacts)
        located: str = names.add_databricks_profile_info_to_artifact_uri(uri, tracking_uri)
        repository: Any = get_artifact_repository(located, tracking_uri=tracking_uri)
        repository.log_artifact(str(path), folder or None)

    return write
