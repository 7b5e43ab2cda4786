"""The runs of a tracking store, through MLflow's client: found, made, changed and read.

What is to be written comes through `mlflow_writer`; only claims and heartbeats, which no journal keeps, go straight
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.design.names import DIGEST_TAG, KEY_TAG, OUTCOME_TAG, RUNNING_STATE, TAINTED_TAG
from pipeline.tracking.attempts import Attempt, attempt_of
from pipeline.tracking.mlflow_batches import log_in_batches
from pipeline.tracking.mlflow_connection import MlflowConnection, UndeliverableError, set_environment

if TYPE_CHECKING:
    import pandas as pd


class MlflowStore:
    """A tracking store with one experiment.

    Args:
        uri: Absolute tracking URI.
        experiment: Name of the experiment (made when absent).
        artifacts: Folder for the artifacts of a local store.

    Attributes:
        connection: The store, opened at first use.
        problems: What the store has refused for good, one line each.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self.connection = MlflowConnection(uri, experiment, artifacts)
        self.problems: list[str] = []
        self._ids: dict[str, str] = {}

    def load_library(self) -> None:
        """Imports MLflow and makes the tables of a new store, which takes seconds, while something else goes on."""
        self.connection.load_library()

    def connect(self, create: bool = True) -> None:
        """Opens the store; may be repeated.

        Args:
            create: Whether to make store and experiment where they are not there.

        Raises:
            InputError: There is no store, and it is not to be made.
            OutsideError: The store cannot be reached or opened.
        """
        self.connection.connect(create)

    def run_id(self, key: str) -> str | None:
        """MLflow's id of the run with this key, deleted ones not counted."""
        if key not in self._ids:
            ids = self._ids_of(key)
            if not ids:
                return None
            self._ids[key] = ids[0]
        return self._ids[key]

    def _ids_of(self, key: str) -> list[str]:
        client = self.connection.client  # it knows the experiment only when it is open
        runs = client.search_runs([self.connection.experiment_id], f"tags.`{KEY_TAG}` = '{_quoted(key)}'")
        return sorted(str(run.info.run_id) for run in runs)

    def known(self, key: str) -> str:
        """The same, where there has to be one.

        Raises:
            UndeliverableError: There is none.
        """
        run_id = self.run_id(key)
        if run_id is None:
            raise UndeliverableError(f"no run with key {key} in the store")
        return run_id

    def create_run(self, key: str, tags: dict[str, str], *, name: str, start_time: int) -> str:
        """Makes a run.

        Args:
            key: Its own, by which it is found again.
            tags: Values by name.
            name: The run's name.
            start_time: When it began, in ms since the epoch.

        Returns:
            MLflow's id.
        """
        tags = {**tags, KEY_TAG: key, "mlflow.source.name": "ablate", "mlflow.source.type": "LOCAL"}
        client = self.connection.client
        client.create_run(self.connection.experiment_id, start_time, tags, name)
        # MLflow's client makes a second run where the answer to its first request got lost
        ids = self._ids_of(key)
        for extra in ids[1:]:
            client.delete_run(extra)
        self._ids[key] = ids[0]
        return ids[0]

    def delete_run(self, key: str) -> None:
        """Marks a run as deleted; its key is free again."""
        self.connection.client.delete_run(self.known(key))
        self._ids.pop(key, None)

    def log(
        self,
        run_id: str,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Logs to a run; what the store refuses for good is added to `problems`.

        Args:
            run_id: MLflow's id.
            metrics: Name, value, time in ms since the epoch and step of each.
            params: Values by name.
            tags: Values by name.
        """
        self.problems += log_in_batches(self.connection.client, run_id, metrics, params, tags)

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Logs a file to a run (MLflow's id), into a folder of its artifacts."""
        self.connection.client.log_artifact(run_id, str(path), folder or None)

    def reopen(self, run_id: str) -> None:
        """Shows a run (MLflow's id) as going on."""
        self.connection.client.update_run(run_id, status=RUNNING_STATE)

    def end(self, run_id: str, status: str, time_ms: int) -> None:
        """Ends a run.

        Args:
            run_id: MLflow's id.
            status: MLflow's word for how it ended.
            time_ms: When, in ms since the epoch.
        """
        self.connection.client.set_terminated(run_id, status, time_ms)

    def is_open(self, run_id: str) -> bool:
        """Whether a run (MLflow's id) goes on."""
        return str(self.connection.client.get_run(run_id).info.status) == RUNNING_STATE

    def known_id(self, key: str) -> str | None:
        """MLflow's id of a run that this process has seen; asks nobody."""
        return self._ids.get(key)

    def set_tag(self, key: str, name: str, value: str) -> None:
        """Sets a tag of the run with this key (claims; not journaled)."""
        self.connection.client.set_tag(self.known(key), name, value)

    def beat(self, key: str, name: str, value: str) -> None:
        """Sets a heartbeat tag on a parent run, and opens it again where another controller has closed it."""
        run_id = self.known(key)
        self.connection.client.set_tag(run_id, name, value)
        if not self.is_open(run_id):
            self.reopen(run_id)

    def tags(self, key: str) -> dict[str, str]:
        """Tags of the run with this key; empty when there is none."""
        run_id = self.run_id(key)
        return dict(self.connection.client.get_run(run_id).data.tags) if run_id else {}

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        """All tries at cells of the experiment (or at one cell), and its parent runs."""
        where = f"tags.`{DIGEST_TAG}` = '{_quoted(digest)}'" if digest else ""
        return [_attempt(run) for run in self._search(where) if KEY_TAG in run.data.tags]

    def _search(self, where: str) -> Iterator[Any]:
        client = self.connection.client
        if not self.connection.experiment_id:
            return
        token = None
        while True:
            page = client.search_runs([self.connection.experiment_id], where, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def values_by_digest(self) -> dict[str, dict[str, float]]:
        """Metrics of the finished runs, by the digest of their cell."""
        runs = self._search("attributes.status = 'FINISHED'")
        return {run.data.tags[DIGEST_TAG]: dict(run.data.metrics) for run in runs if DIGEST_TAG in run.data.tags}

    def tainted(self) -> set[str]:
        """Digests of finished runs whose measurement is to be doubted."""
        runs = self._search("attributes.status = 'FINISHED'")
        return {run.data.tags[DIGEST_TAG] for run in runs if run.data.tags.get(TAINTED_TAG)}

    def frame(self) -> pd.DataFrame:
        """The experiment's runs with the column names of `mlflow.search_runs` (`params.`, `metrics.`, `tags.`)."""
        import pandas as pd

        rows = []
        for run in self._search(""):
            row: dict[str, Any] = {
                "run_id": run.info.run_id,
                "status": run.info.status,
                "start_time": run.info.start_time,
                "end_time": run.info.end_time,
            }
            row |= {f"params.{name}": value for name, value in run.data.params.items()}
            row |= {f"metrics.{name}": value for name, value in run.data.metrics.items()}
            row |= {f"tags.{name}": value for name, value in run.data.tags.items()}
            rows.append(row)
        return pd.DataFrame(rows)

    def history(self, run_ids: Iterable[str], keys: Sequence[str]) -> pd.DataFrame:
        """Per-epoch points: columns run_id, key, step, timestamp, value."""
        import pandas as pd

        points = [
            (run_id, key, point.step, point.timestamp, point.value)
            for run_id in run_ids
            for key in keys
            for point in self.connection.client.get_metric_history(run_id, key)
        ]
        return pd.DataFrame(points, columns=["run_id", "key", "step", "timestamp", "value"])

    def tags_of(self, run_id: str) -> dict[str, str]:
        """Tags of a run by MLflow's id."""
        return dict(self.connection.client.get_run(run_id).data.tags)


def artifact_writer() -> Callable[[str, Path, str], None]:
    """Imports what writes artifacts, which takes seconds.

    Returns:
        A function that puts a file into a folder of a run's artifacts, given their URI.
    """
    set_environment()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    def write(uri: str, path: Path, folder: str) -> None:
        repository: Any = get_artifact_repository(uri)
        repository.log_artifact(str(path), folder)

    return write


def _attempt(run: Any) -> Attempt:
    tags = run.data.tags
    return attempt_of(
        tags[KEY_TAG],
        tags,
        start_time=int(run.info.start_time or 0),
        parent=tags.get("mlflow.parentRunId", ""),
        outcome="" if run.info.status == RUNNING_STATE else tags.get(OUTCOME_TAG) or "failed",
        run_id=run.info.run_id,
    )


def _quoted(text: str) -> str:
    return text.replace("'", "")
