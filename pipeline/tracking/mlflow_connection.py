"""Opens a tracking store with MLflow's client: library, tables of a new SQLite file, experiment."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.design.names import KEY_TAG, STORE_TAG
from pipeline.errors import InputError, OutsideError
from pipeline.paths import STATE_DIR
from pipeline.tracking import mlflow_database
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.mlflow_errors import StoreChangedError, cause
from pipeline.tracking.mlflow_log import log_to_file
from pipeline.tracking.sqlite_files import is_filled, use_wal
from pipeline.tracking.uri import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient


class MlflowConnection:
    """A tracking store and one experiment of it, opened at first use.

    Args:
        uri: Absolute tracking URI.
        experiment: The experiment's name.
        artifacts: Folder for the artifacts of a local store.

    Attributes:
        experiment_id: MLflow's; empty until the experiment is there.
        token: What tells this store from another one at its address; empty until the store is open for writing.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self.experiment_id = ""
        self.token = ""
        self._artifacts = artifacts
        self._database = sqlite_file(uri)
        self._file: tuple[int, int] | None = None
        self._aside: tempfile.TemporaryDirectory[str] | None = None

    def load_library(self) -> None:
        """Imports MLflow, which takes seconds, while something else goes on.

        So do the tables of a new SQLite store: they are made in a folder that goes with this object, and are
        copied when the store is opened.
        """
        set_environment()
        import mlflow  # noqa: F401

        log_to_file()
        if self._database is not None and not is_filled(self._database):
            aside = tempfile.TemporaryDirectory(prefix="ablate-tables-")
            with contextlib.suppress(Exception):  # no room there: they are made where they belong
                mlflow_database.migrate(Path(aside.name, "mlflow.db"), self.uri)
                self._aside = aside

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; store and experiment are made where they are not there."""
        return self._opened(create=True)

    def connect(self, create: bool = True) -> None:
        """Opens the store; may be repeated.

        Args:
            create: Whether to make store and experiment where they are not there.

        Raises:
            InputError: There is no store, and it is not to be made.
            OutsideError: The store cannot be reached or opened.
        """
        self.client = self._opened(create)

    def _opened(self, create: bool) -> MlflowClient:
        try:
            return self._open(create)
        except (InputError, OutsideError):
            raise
        except Exception as error:  # MLflow, SQLAlchemy, requests and the drivers each have their own
            raise OutsideError(f"tracking store {without_credentials(self.uri)}: {cause(error)}") from error

    def studies(self) -> list[str]:
        """Names of the experiments that are studies of this program."""
        return [each.name for each in self.client.search_experiments(max_results=1000) if STORE_TAG in each.tags]

    def check_file(self) -> None:
        """Sees whether the database is still the file that was opened; others may have deleted or replaced it.

        Raises:
            StoreChangedError: It is not.
        """
        if self._database is not None and self._file is not None and _identity(self._database) != self._file:
            raise StoreChangedError(f"{self._database} was deleted or replaced")

    def check(self) -> None:
        """Sees whether the store is still the one that was opened, and answers with sense.

        Raises:
            StoreChangedError: It is another one.
            OutsideError: Its answer is none of MLflow's.
            Exception: As MLflow does when the store is away.
        """
        self.check_file()
        try:
            experiment = self.client.get_experiment(self.experiment_id)
        except Exception as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                raise StoreChangedError(f"experiment {self.experiment!r} is not there any more") from None
            raise
        if str(experiment.experiment_id) != self.experiment_id:
            raise OutsideError(self._senseless())
        if (experiment.name, experiment.tags.get(STORE_TAG, "")) != (self.experiment, self.token):
            raise StoreChangedError("it is not the store that was opened")

    def open_again(self) -> None:
        """Opens the store that is at the address now, as `connect` does."""
        self.experiment_id = self.token = ""
        self.connect()

    def _senseless(self) -> str:
        return f"tracking store {without_credentials(self.uri)}: answers, but not as MLflow does; is it another server?"

    def _open(self, create: bool) -> MlflowClient:
        set_environment()
        from mlflow import MlflowClient

        log_to_file()
        database = self._database
        if database is not None:
            if not create and not is_filled(database):
                raise InputError(
                    f"tracking store {without_credentials(self.uri)}: no such file; allowed: a store with a study in it"
                )
            if create:
                database.parent.mkdir(parents=True, exist_ok=True)
        with mlflow_database.initialising(database if create else None):  # who reads needs no folder to write to
            if database is not None and not is_filled(database):
                if not database.exists():  # of a file that is gone: SQLite would play it into the new one
                    for suffix in ("-wal", "-shm"):
                        database.with_name(database.name + suffix).unlink(missing_ok=True)
                ready = Path(self._aside.name, "mlflow.db") if self._aside else None
                mlflow_database.make_tables(database, self.uri, ready)
            if self._aside is not None:  # now, not at the end: a killed process would leave it behind
                self._aside.cleanup()
                self._aside = None
            client = MlflowClient(tracking_uri=self.uri)
            if database is not None:
                _drop_connections(client)
            self._find_experiment(client, create)
            if database is not None:
                self._file = _identity(database)
                if create:
                    use_wal(database)
        return client

    def _find_experiment(self, client: MlflowClient, create: bool) -> None:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None and create:
            location = self._artifacts.resolve().as_uri() if self._database is not None else None
            created = _create_experiment(client, self.experiment, location)
            experiment = client.get_experiment(created) if created else None
            if experiment is None or str(experiment.experiment_id) != created:
                raise OutsideError(self._senseless())
        if experiment is not None:
            if experiment.name != self.experiment or not experiment.experiment_id:
                raise OutsideError(self._senseless())
            if experiment.lifecycle_stage != "active":
                raise OutsideError(
                    f"tracking store: experiment {self.experiment!r} is deleted; restore it, remove it for good "
                    "with `mlflow gc`, or set MLFLOW_EXPERIMENT_NAME"
                )
            found = str(experiment.experiment_id)
            token = experiment.tags.get(STORE_TAG, "")
            if create and not token:
                token = self._mark(client, found)
            self.experiment_id, self.token = found, token

    def _mark(self, client: MlflowClient, experiment_id: str) -> str:
        """Gives an experiment of an earlier version, or an empty one, its token; one with others' runs is left alone.

        Raises:
            InputError: Another program's runs are in it, and none of ours.
        """
        runs = client.search_runs([experiment_id], max_results=1)
        if runs and not client.search_runs([experiment_id], f"tags.`{KEY_TAG}` LIKE '%'", max_results=1):
            raise InputError(
                f"tracking store {without_credentials(self.uri)}: experiment {self.experiment!r} holds runs of another "
                "program; allowed: a study of another name, or another experiment in MLFLOW_EXPERIMENT_NAME"
            )
        client.set_experiment_tag(experiment_id, STORE_TAG, uuid.uuid4().hex)
        return str(client.get_experiment(experiment_id).tags.get(STORE_TAG, ""))  # of two at once, the later one's


def _drop_connections(client: MlflowClient) -> None:
    """MLflow keeps connections for each address; they would go on writing to a file that is gone."""
    client._tracking_client.store.engine.dispose()


def _identity(database: Path) -> tuple[int, int] | None:
    try:
        found = database.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _create_experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, location, tags={STORE_TAG: uuid.uuid4().hex}))
    except MlflowException as error:
        experiment = client.get_experiment_by_name(name)  # another controller was faster
        if experiment is None:
            raise error
        return str(experiment.experiment_id)


def set_environment() -> None:
    """No telemetry, and an absent server is told within seconds (the defaults block for minutes)."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # the client prints two lines for each run that it ends on a server; with --json they are not the program's
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
    try:
        Path.home()
    except RuntimeError:  # MLflow asks for it while it is imported, and keeps nothing there that we use
        os.environ["HOME"] = str(STATE_DIR.absolute())
