"""Files are sent to where they may go, and nowhere else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.mlflow_artifacts import allow, artifact_writer
from pipeline.tracking.mlflow_errors import UndeliverableError
from pipeline.tracking.mlflow_store import MlflowStore


def test_a_row_sends_no_file_elsewhere(mlflow_store: MlflowStore, tmp_path: Path) -> None:
    run_id = mlflow_store.create_run("k", {}, name="k", start_time=1)
    (tmp_path / "report.md").write_text("said")
    outside = (tmp_path / "home").as_uri()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (outside,))
        connection.commit()
    with pytest.raises(UndeliverableError, match="MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        mlflow_store.log_artifact(run_id, tmp_path / "report.md", "report")
    with pytest.raises(UndeliverableError, match="home"):
        artifact_writer(mlflow_store.uri, tmp_path / "artifacts")(outside, tmp_path / "report.md", "report")
    assert not (tmp_path / "home").exists()


def test_a_file_goes_where_it_was_allowed_to_whatever_the_row_says_since(
    mlflow_store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = mlflow_store.create_run("k", {}, name="k", start_time=1)
    (tmp_path / "report.md").write_text("said")
    client = mlflow_store.connection.client
    ask, asked = client.get_run, []

    def moved_after_the_answer(wanted: str) -> Any:
        asked.append(wanted)
        answer = ask(wanted)
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
            connection.execute("UPDATE runs SET artifact_uri = ?", ((tmp_path / "home").as_uri(),))
            connection.commit()
        return answer

    monkeypatch.setattr(client, "get_run", moved_after_the_answer)
    for _ in range(2):
        mlflow_store.log_artifact(run_id, tmp_path / "report.md", "report")
    assert asked == [run_id]
    assert not (tmp_path / "home").exists()
    assert len(list((tmp_path / "artifacts").rglob("report.md"))) == 1


def test_a_refusal_shows_no_password_and_moves_no_cursor(tmp_path: Path) -> None:
    with pytest.raises(UndeliverableError) as refused:
        allow("http://u:hunter2@evil/\x1b[2J", "http://server", tmp_path)
    assert "hunter2" not in str(refused.value) and "\x1b" not in str(refused.value)
