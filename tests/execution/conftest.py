"""A tracking store that is made once: MLflow's own making of one takes seconds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_store import MlflowStore


@pytest.fixture(scope="session")
def _made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    store = MlflowStore(f"sqlite:///{folder}/mlflow.db", "made", folder / "artifacts")
    store.connect()
    return folder / "mlflow.db"


@pytest.fixture
def store_in(_made_store: Path) -> Callable[[Path, str], MlflowStore]:
    """Connects to a store of its own in a folder."""

    def connected(folder: Path, experiment: str) -> MlflowStore:
        with closing(sqlite3.connect(_made_store)) as source, closing(sqlite3.connect(folder / "mlflow.db")) as copy:
            source.backup(copy)
        store = MlflowStore(f"sqlite:///{folder}/mlflow.db", experiment, folder / "artifacts")
        store.connect()
        return store

    return connected
