"""What the tests of this room share: a folder in memory, and a store of MLflow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_store import MlflowStore


@pytest.fixture
def ram_path(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system in memory, where `fsync` costs nothing; `tmp_path` where there is none."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="ablate-tests-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def mlflow_store(tmp_path: Path, migrated_database: Path) -> MlflowStore:
    """An empty store in a SQLite file, connected."""
    shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "study", tmp_path / "artifacts")
    store.connect()
    return store
