"""Opens a tracking store with MLflow's client: library, tables of a new SQLite file, experiment."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, OutsideError, first_line
from pipeline.tracking import mlflow_database
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.sqlite_files import is_filled, use_wal
from pipeline.tracking.uri import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}


class UndeliverableError(Exception):
    """The store refuses an entry for good; trying again cannot help."""


def is_permanent(error: Exception) -> bool:
    """Whether a store that raised this refuses for good."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in _PERMANENT


class MlflowConnection:
    """A tracking store and one experiment of it, opened at first use.

    Args:
        uri: Absolute tracking URI.
        experiment: The experiment's name.
        artifacts: Folder for the artifacts of a local store.

    Attributes:
        experiment_id: MLflow's; empty until the experiment is there.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self.experiment_id = ""
        self._artifacts = artifacts
        self._database = sqlite_file(uri)
        self._aside: tempfile.TemporaryDirectory[str] | None = None

    def load_library(self) -> None:
        """Imports MLflow, which takes seconds, while something else goes on.

        So do the tables of a new SQLite store: they are made in a folder that goes with this object, and are
        copied when the store is opened.
        """
        set_environment()
        import mlflow  # noqa: F401

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
            raise OutsideError(f"tracking store {without_credentials(self.uri)}: {first_line(error)}") from error

    def _open(self, create: bool) -> MlflowClient:
        set_environment()
        from mlflow import MlflowClient

        database = self._database
        if database is not None:
            if not create and not database.is_file():
                raise InputError(
                    f"tracking store {without_credentials(self.uri)}: no such file; allowed: a store with a study in it"
                )
            database.parent.mkdir(parents=True, exist_ok=True)
        with mlflow_database.initialising(database):
            if database is not None and not is_filled(database):
                ready = Path(self._aside.name, "mlflow.db") if self._aside else None
                mlflow_database.make_tables(database, self.uri, ready)
            if self._aside is not None:  # now, not at the end: a killed process would leave it behind
                self._aside.cleanup()
                self._aside = None
            client = MlflowClient(tracking_uri=self.uri)
            self._find_experiment(client, create)
            if database is not None:
                use_wal(database)
        return client

    def _find_experiment(self, client: MlflowClient, create: bool) -> None:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None and create:
            location = self._artifacts.resolve().as_uri() if self._database is not None else None
            self.experiment_id = _create_experiment(client, self.experiment, location)
        elif experiment is not None:
            if experiment.lifecycle_stage != "active":
                raise OutsideError(
                    f"tracking store: experiment {self.experiment!r} is deleted; restore it, remove it for good "
                    "with `mlflow gc`, or set MLFLOW_EXPERIMENT_NAME"
                )
            self.experiment_id = str(experiment.experiment_id)


def _create_experiment(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location))
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
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
