"""The studies that a tracking store holds: listed, renamed, deleted."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.paths import STATE_DIR
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.uri import resolve_uri, sqlite_file


@dataclass(frozen=True)
class StoredStudy:
    """An experiment with runs of this program.

    Attributes:
        name: of the experiment.
        runs: rows of cells, every try counted; None where only a server could count them.
    """

    name: str
    runs: int | None


def stored_studies(tracking_uri: str | None) -> list[StoredStudy]:
    """Lists the studies of a store, by name; none where the default store is not there yet.

    Args:
        tracking_uri: the flag's value.

    Raises:
        InputError: the store that was named is not there.
        OutsideError: it does not answer.
    """
    uri = resolve_uri(tracking_uri)
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        if tracking_uri is None:
            return []
        raise InputError(
            f"tracking store {without_credentials(uri)}: no such file; allowed: a store with a study in it"
        )
    counted = None if file is None else mlflow_sqlite.count_runs(file)
    if counted is not None:
        return [StoredStudy(name, runs) for name, runs in sorted(counted.items())]
    store = MlflowStore(uri, "ablate", STATE_DIR / "artifacts")
    store.connect(create=False)
    return [StoredStudy(name, None) for name in sorted(store.experiments())]
