"""The runs of a tracking store, through MLflow's client: found, made, changed and read.

What is to be written comes through `mlflow_writer`; only claims and heartbeats, which no journal keeps, go straight
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.design.names import (
    DELIVERED_TAG,
    DIGEST_TAG,
    KEY_TAG,
    KIND_TAG,
    OPENED_TAG,
    OUTCOME_TAG,
    RUNNING_STATE,
    STORE_TAG,
    STUDY_TAG,
    TAINTED_TAG,
)
from pipeline.errors import OutsideError
from pipeline.tracking.attempts import Attempt, attempt_of, opened_at
from pipeline.tracking.mlflow_artifacts import artifact_writer
from pipeline.tracking.mlflow_batches import Refusal, log_in_batches
from pipeline.tracking.mlflow_connection import MlflowConnection
from pipeline.tracking.mlflow_errors import UndeliverableError
from pipeline.tracking.uri import scheme_of

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
        self._artifacts = artifacts
        self._ids: dict[str, str] = {}
        self._places: dict[str, str] = {}  # MLflow's id of a run -> where its artifacts are
        self._writer: Callable[[str, Path, str], None] | None = None

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

    @property
    def token(self) -> str:
        """What tells this store from another one at its address; opens it if need be."""
        return self.connection.token if self.connection.client else ""

    def check(self, *, file_only: bool = False) -> None:
        """Sees whether the store is still the one that was opened.

        Args:
            file_only: Whether to ask the file system alone, which costs nothing.

        Raises:
            StoreChangedError: It is not.
            Exception: As MLflow does when the store is away.
        """
        if file_only:
            self.connection.check_file()
        else:
            self.connection.check()

    @property
    def served(self) -> bool:
        """Whether a server answers, which may be anything: a proxy, a login page. A database is in this process."""
        return "sql" not in scheme_of(self.uri)

    def prove(self) -> None:
        """Writes something that changes nothing: what a store does with it shows whether it takes anything.

        Raises:
            Exception: As MLflow does when the store is away.
        """
        self.connection.client.set_experiment_tag(self.connection.experiment_id, STORE_TAG, self.token)

    @property
    def stamp(self) -> int:
        """When a journal was last delivered to its end, in ms since the epoch, as the store has it; 0 for never.

        Raises:
            Exception: As MLflow does when the store is away.
        """
        experiment = self.connection.client.get_experiment(self.connection.experiment_id)
        found = str(experiment.tags.get(DELIVERED_TAG, ""))
        return int(found) if found.isascii() and found.isdigit() and len(found) < 19 else 0

    def sign(self) -> int:
        """Gives the store a later stamp, which an older state of it will not have; returns the stamp.

        Raises:
            Exception: As MLflow does when the store is away.
        """
        stamp = max(time.time_ns() // 10**6, self.stamp + 1)
        self.connection.client.set_experiment_tag(self.connection.experiment_id, DELIVERED_TAG, str(stamp))
        return stamp

    def open_again(self) -> None:
        """Opens what is at the address now; what was known of the former store is forgotten."""
        self._ids.clear()
        self._places.clear()
        self.connection.open_again()

    def forget(self, key: str) -> bool:
        """Forgets a run that the store has no more; returns whether it was known."""
        return self._ids.pop(key, None) is not None

    def is_deleted(self, key: str) -> bool:
        """Whether somebody has deleted the run with this key."""
        from mlflow.entities import ViewType

        client = self.connection.client
        where = f"tags.`{KEY_TAG}` = '{_quoted(key)}'"
        return bool(client.search_runs([self.connection.experiment_id], where, ViewType.DELETED_ONLY, max_results=1))

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
            raise UndeliverableError(f"no run with key {key[:40]} in the store")
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
        made = client.create_run(self.connection.experiment_id, start_time, tags, name)
        # MLflow's client makes a second run where the answer to its first request got lost
        ids = self._ids_of(key)
        if not ids or not made.info.run_id:
            raise OutsideError("the store says that it has made a run, and has none")
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
    ) -> list[Refusal]:
        """Logs to a run; what the store refuses for good is returned, and added to `problems`.

        Args:
            run_id: MLflow's id.
            metrics: Name, value, time in ms since the epoch and step of each.
            params: Values by name.
            tags: Values by name.
        """
        refused = log_in_batches(self.connection.client, run_id, metrics, params, tags)
        self.problems += [refusal.why for refusal in refused]
        return refused

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Logs a file to a run (MLflow's id), into a folder of its artifacts.

        Raises:
            UndeliverableError: The row sends it to where nothing of ours may go.
        """
        if run_id not in self._places:
            self._places[run_id] = str(self.connection.client.get_run(run_id).info.artifact_uri)
        # not MLflow's own call, which asks the row again and sends to what it says then
        self._writer = self._writer or artifact_writer(self.uri, self._artifacts)
        self._writer(self._places[run_id], path, folder)

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
        client = self.connection.client
        client.set_terminated(run_id, status, time_ms)
        if not self.served:  # a database has it when the call comes back
            return
        info = client.get_run(run_id).info
        if (info.run_id, info.status) != (run_id, status):
            raise OutsideError("the store says that it has ended a run, and has not")

    def is_open(self, run_id: str) -> bool:
        """Whether a run (MLflow's id) goes on."""
        return str(self.connection.client.get_run(run_id).info.status) == RUNNING_STATE

    def ended_at(self, run_id: str) -> int | None:
        """When a run (MLflow's id) ended, in ms since the epoch; None while it goes on."""
        info = self.connection.client.get_run(run_id).info
        return None if str(info.status) == RUNNING_STATE else int(info.end_time or 0)

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

    def last_parent(self) -> tuple[str, str] | None:
        """The study that a call of `ablate grid`, `run` or `speed` began to work on last, in any experiment.

        Returns:
            The study's name, and that of its experiment; None where there is none.
        """
        client = self.connection.client
        names = {each.experiment_id: each.name for each in client.search_experiments(max_results=1000)}
        found: list[Any] = []
        for kind in ("grid", "speed") if names else ():
            where = f"tags.`{KIND_TAG}` = '{kind}'"
            found += client.search_runs([*names], where, max_results=100, order_by=["attributes.start_time DESC"])
        ours = [run for run in found if STUDY_TAG in run.data.tags]
        opened = {run.info.run_id: opened_at(run.data.tags.get(OPENED_TAG), run.info.start_time or 0) for run in ours}
        last = max(ours, key=lambda run: opened[run.info.run_id], default=None)
        return None if last is None else (last.data.tags[STUDY_TAG], names[last.info.experiment_id])

    def values_by_digest(self, parent: str | None = None) -> dict[str, dict[str, float]]:
        """Metrics of the finished runs, by the digest of their cell.

        Args:
            parent: Key of the run that they lie under; None for all of the experiment.
        """
        runs = self._finished(parent)
        return {run.data.tags[DIGEST_TAG]: dict(run.data.metrics) for run in runs if DIGEST_TAG in run.data.tags}

    def tainted(self, parent: str | None = None) -> set[str]:
        """Digests of finished runs whose measurement is to be doubted.

        Args:
            parent: Key of the run that they lie under; None for all of the experiment.
        """
        return {run.data.tags[DIGEST_TAG] for run in self._finished(parent) if run.data.tags.get(TAINTED_TAG)}

    def _finished(self, parent: str | None) -> list[Any]:
        runs = list(self._search("attributes.status = 'FINISHED'"))
        if parent is None:
            return runs
        above = self.run_id(parent)
        return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == above]

    def experiments(self) -> list[str]:
        """Names of the store's active experiments that this program has made or marked."""
        client = self.connection.client
        found: list[str] = []
        token = None
        while True:
            page = client.search_experiments(filter_string=f"tags.`{STORE_TAG}` LIKE '%'", page_token=token)
            found += [str(experiment.name) for experiment in page]
            token = page.token
            if not token:
                return found

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
