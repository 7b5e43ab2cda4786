"""The studies that a tracking store holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.tracking.experiments import StoredStudy, stored_studies


def test_a_default_store_that_is_not_there_yet_has_no_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert stored_studies(None) == [] and not (tmp_path / "mlruns").exists()
    with pytest.raises(InputError, match=r"none\.db: no such file"):
        stored_studies("sqlite:///none.db")


def test_an_experiment_of_another_program_is_no_study(migrated_store: Callable[[Path], str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = migrated_store(tmp_path / "mlflow.db")
    client = MlflowClient(uri)
    theirs = client.create_experiment("theirs")
    client.create_run(theirs)
    assert stored_studies(uri) == []
    ours = client.create_experiment("ours")
    for kind in ("grid", "run", "sentinel", "turns"):
        client.create_run(ours, tags={"ablate.kind": kind})
    client.delete_run(client.create_run(ours, tags={"ablate.kind": "run"}).info.run_id)
    assert stored_studies(uri) == [StoredStudy("ours", 3)]
    client.delete_experiment(ours)
    assert stored_studies(uri) == []
