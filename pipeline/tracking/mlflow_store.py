"""The only module that imports MLflow: opens a tracking store, finds and reads its runs, and logs to them.

What is to be written comes through `writing`; only claims and heartbeats, which no journal keeps, go straight here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.design.names import KEY_TAG, OUTCOME_TAG
from pipeline.errors import InputError, OutsideError, first_line
from pipeline.tracking.attempts import Attempt, attempt_of
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.mlflow_database import filled, initialising, make_tables, migrate, set_environment, use_wal
from pipeline.tracking.uri import sqlite_file

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}


class UndeliverableError(Exception):
    """The store refuses an entry for good; trying again cannot help."""


def permanent(error: Exception) -> bool:
    """Whether a store that raised this refuses for good."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in _PERMANENT


class MlflowStore:
    """A tracking store with one experiment.

    Args:
        uri: absolute tracking URI.
        experiment: name of the experiment (made when absent).
        artifacts: where artifacts of a local store go.

    Attributes:
        problems: what the store has refused for good, one line each.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self._artifacts = artifacts
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._ids: dict[str, str] = {}
        self._aside: tempfile.TemporaryDirectory[str] | None = None
        self.problems: list[str] = []

    def load_library(self) -> None:
        """Imports MLflow, which takes seconds, while something else goes on.

        So do the tables of a new SQLite store: they are made in a folder that goes with this object, and are
        copied when the store is opened.
        """
        set_environment()
        import mlflow  # noqa: F401

        database = sqlite_file(self.uri)
        if database is not None and not filled(database):
            aside = tempfile.TemporaryDirectory(prefix="ablate-tables-")
            with contextlib.suppress(Exception):  # no room there: they are made where they belong
                migrate(Path(aside.name, "mlflow.db"), self.uri)
                self._aside = aside

    def connect(self, create: bool = True) -> None:
        """Opens the store, makes its tables and the experiment; may be repeated.

        Raises:
            OutsideError: the store cannot be reached or opened.
        """
        try:
            self._client = self._open(create)
        except (InputError, OutsideError):
            raise
        except Exception as error:  # MLflow, SQLAlchemy, requests and the drivers each have their own
            raise OutsideError(f"tracking store {without_credentials(self.uri)}: {first_line(error)}") from error

    def _open(self, create: bool) -> MlflowClient:
        set_environment()
        from mlflow import MlflowClient

        database = sqlite_file(self.uri)
        if database is not None:
            if not create and not database.is_file():
                raise InputError(
                    f"tracking store {without_credentials(self.uri)}: no such file; allowed: a store with a study in it"
                )
            database.parent.mkdir(parents=True, exist_ok=True)
        with initialising(database):
            if database is not None and not filled(database):
                make_tables(database, self.uri, Path(self._aside.name, "mlflow.db") if self._aside else None)
            if self._aside is not None:  # now, not at the end: a killed process would leave it behind
                self._aside.cleanup()
                self._aside = None
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found is None and create:
                location = self._artifacts.resolve().as_uri() if database is not None else None
                self._experiment_id = _create_experiment(client, self.experiment, location)
            elif found is not None:
                if found.lifecycle_stage != "active":
                    raise OutsideError(
                        f"tracking store: experiment {self.experiment!r} is deleted; restore it, remove it for good "
                        "with `mlflow gc`, or set MLFLOW_EXPERIMENT_NAME"
                    )
                self._experiment_id = str(found.experiment_id)
            if database is not None:
                use_wal(database)
        return client

    @property
    def client(self) -> MlflowClient:
        """The MLflow client; connects at first use."""
        if self._client is None:
            self.connect()
        assert self._client is not None
        return self._client

    def run_id(self, key: str) -> str | None:
        """MLflow's id of the run with this key, deleted ones not counted."""
        if key not in self._ids:
            found = self.client.search_runs(
                [self._experiment_id], f"tags.`{KEY_TAG}` = '{_quoted(key)}'", max_results=1
            )
            if not found:
                return None
            self._ids[key] = found[0].info.run_id
        return self._ids[key]

    def known(self, key: str) -> str:
        """The same, where there has to be one.

        Raises:
            UndeliverableError: there is none.
        """
        run_id = self.run_id(key)
        if run_id is None:
            raise UndeliverableError(f"no run with key {key} in the store")
        return run_id

    def create_run(self, key: str, tags: dict[str, str], *, name: str, start_time: int) -> str:
        """Makes a run; `start_time` in milliseconds since the epoch. Returns MLflow's id."""
        tags = {**tags, KEY_TAG: key, "mlflow.source.name": "ablate", "mlflow.source.type": "LOCAL"}
        self.client.create_run(self._experiment_id, start_time, tags, name)
        # MLflow's client makes a second run where the answer to its first request got lost
        found = self.client.search_runs([self._experiment_id], f"tags.`{KEY_TAG}` = '{_quoted(key)}'")
        ids = sorted(str(run.info.run_id) for run in found)
        for extra in ids[1:]:
            self.client.delete_run(extra)
        self._ids[key] = ids[0]
        return ids[0]

    def delete_run(self, key: str) -> None:
        """Marks a run as deleted; its key is free again."""
        self.client.delete_run(self.known(key))
        self._ids.pop(key, None)

    def log(
        self,
        run_id: str,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: dict[str, Any] | None = None,
        tags: dict[str, Any] | None = None,
    ) -> None:
        """Logs within MLflow's limits: 1,000 entities, 100 params and 100 tags a call, 6,000 and 8,000 characters.

        Args:
            run_id: MLflow's.
            metrics: (name, value, milliseconds since the epoch, step) each.
            params, tags: by name; too long values are cut.
        """
        from mlflow.entities import Metric, Param, RunTag

        values = [Metric(name, value, time, step) for name, value, time, step in metrics]
        named = [Param(str(name), str(value)[:6000]) for name, value in (params or {}).items()]
        marks = [RunTag(str(name), str(value)[:8000]) for name, value in (tags or {}).items()]
        while values or named or marks:
            self._log_batch(run_id, values[:800], named[:100], marks[:100])
            values, named, marks = values[800:], named[100:], marks[100:]

    def _log_batch(self, run_id: str, values: list[Any], named: list[Any], marks: list[Any]) -> None:
        """Logs a batch; if the store refuses it for good, all of it but what is refused alone."""
        try:
            self.client.log_batch(run_id, values, named, marks, synchronous=True)
        except Exception as error:
            if not permanent(error):
                raise
            alone = len(values) + len(named) + len(marks) == 1
            if alone or self.client.get_run(run_id).info.lifecycle_stage != "active":
                self.problems.append(first_line(error))
                return
            for part in (values, named, marks):
                half = (len(part) + 1) // 2
                for some in (part[:half], part[half:]):
                    if some:
                        mine = (some if part is values else [], some if part is named else [])
                        self._log_batch(run_id, *mine, some if part is marks else [])

    def known_id(self, key: str) -> str | None:
        """MLflow's id of a run that this process has seen; asks nobody."""
        return self._ids.get(key)

    def set_tag(self, key: str, name: str, value: str) -> None:
        """Sets a tag of the run with this key (claims; not journaled)."""
        self.client.set_tag(self.known(key), name, value)

    def beat(self, key: str, name: str, value: str) -> None:
        """Sets a heartbeat tag on a parent run, and opens it again where another controller has closed it."""
        run_id = self.known(key)
        self.client.set_tag(run_id, name, value)
        if self.client.get_run(run_id).info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")

    def tags(self, key: str) -> dict[str, str]:
        """Tags of the run with this key; empty when there is none."""
        run_id = self.run_id(key)
        return dict(self.client.get_run(run_id).data.tags) if run_id else {}

    def attempts(self, digest: str | None = None) -> list[Attempt]:
        """All tries at cells of the experiment (or at one cell), and its parent runs."""
        if self._client is None:
            self.connect()
        where = f"tags.`ablate.digest` = '{_quoted(digest)}'" if digest else ""
        return [_attempt(run) for run in self._search(where) if KEY_TAG in run.data.tags]

    def _search(self, where: str) -> Iterator[Any]:
        if not self._experiment_id:
            return
        token = None
        while True:
            page = self.client.search_runs([self._experiment_id], where, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def values_by_digest(self) -> dict[str, dict[str, float]]:
        """Metrics of the finished runs, by the digest of their cell."""
        runs = self._search("attributes.status = 'FINISHED'")
        return {
            run.data.tags["ablate.digest"]: dict(run.data.metrics) for run in runs if "ablate.digest" in run.data.tags
        }

    def tainted(self) -> set[str]:
        """Digests of finished runs whose measurement is to be doubted."""
        runs = self._search("attributes.status = 'FINISHED'")
        return {run.data.tags["ablate.digest"] for run in runs if run.data.tags.get("ablate.tainted")}

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
            for point in self.client.get_metric_history(run_id, key)
        ]
        return pd.DataFrame(points, columns=["run_id", "key", "step", "timestamp", "value"])

    def tags_of(self, run_id: str) -> dict[str, str]:
        """Tags of a run by MLflow's id."""
        return dict(self.client.get_run(run_id).data.tags)

    def log_artifacts(self, key: str, paths: Iterable[Path], folder: str) -> None:
        """Logs files to the run with this key."""
        for path in paths:
            self.client.log_artifact(self.known(key), str(path), folder)


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
        outcome="" if run.info.status == "RUNNING" else tags.get(OUTCOME_TAG) or "failed",
        run_id=run.info.run_id,
    )


def _create_experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        found = client.get_experiment_by_name(name)  # another controller was faster
        if found is None:
            raise error
        return str(found.experiment_id)


def _quoted(text: str) -> str:
    return text.replace("'", "")
