"""Runs read from a SQLite store's tables are those that MLflow's client gives."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_artifacts import artifact_writer
from pipeline.tracking.mlflow_store import MlflowStore
from tests.support.ablate import run_ablate
from tests.support.stores import key_of


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> MlflowStore:
    """A store with what a study has and what it may have: numbers that are none, deleted runs, open ones, others'."""
    folder = tmp_path_factory.mktemp("tables")
    uri = f"sqlite:///{folder}/mlflow.db"
    shutil.copyfile(migrated_database, folder / "mlflow.db")
    found = MlflowStore(uri, "ours", folder / "artifacts")
    found.connect()
    client = found.connection.client
    ours = client.get_experiment_by_name("ours").experiment_id
    other = client.create_experiment("theirs")
    for index in range(5):
        run_id = client.create_run(ours, start_time=1000 + index // 2, run_name=f"run {index}").info.run_id
        client.log_param(run_id, "model", f"m{index}")
        client.set_tag(run_id, "ablate.kind", "run")
        for step, value in enumerate((math.nan, 0.25, math.inf, -math.inf, 1 / 3)[: index + 1]):
            client.log_metric(run_id, "val/accuracy", value, timestamp=5 - step, step=step)
        client.log_metric(run_id, "last", (math.nan, math.inf, -math.inf, 0.1, -0.0)[index])
        if index == 3:
            client.delete_run(run_id)
        elif index != 4:  # that one is open
            client.set_terminated(run_id, "KILLED" if index else "FINISHED", end_time=2000 + index)
    client.create_run(ours, start_time=900)  # a run without anything
    client.log_param(client.create_run(other).info.run_id, "model", "not ours")
    return found


def store_of(tracker: MlflowStore) -> mlflow_sqlite.SqliteReader:
    found = mlflow_sqlite.open_reader(Path(tracker.uri.removeprefix("sqlite:///")), "ours")
    assert found is not None
    return found


def test_runs_are_those_of_the_client(tracker: MlflowStore) -> None:
    direct, through = store_of(tracker).frame(), tracker.frame()
    assert len(through) == 5
    pd.testing.assert_frame_equal(direct[sorted(direct)], through[sorted(through)])


def test_histories_are_those_of_the_client(tracker: MlflowStore) -> None:
    runs = tracker.frame()["run_id"].tolist()
    keys = ["val/accuracy", "last", "absent"]
    direct, through = store_of(tracker).history(runs, keys), tracker.history(runs, keys)
    assert through["value"].isna().any() and len(through) == 1 + 2 + 3 + 5 + 4
    pd.testing.assert_frame_equal(direct, through)
    empty = store_of(tracker).history([], keys)
    pd.testing.assert_frame_equal(empty, tracker.history([], keys))


def test_tags_are_those_of_the_client(tracker: MlflowStore) -> None:
    for run_id in tracker.frame()["run_id"]:
        assert store_of(tracker).tags_of(run_id) == tracker.tags_of(run_id)


def test_artifacts_go_where_the_client_puts_them(tracker: MlflowStore, tmp_path: Path) -> None:
    run_id = tracker.frame()["run_id"].iloc[0]
    path = tmp_path / "report.md"
    path.write_text("said")
    uri = store_of(tracker).artifact_uri(run_id)
    assert uri == tracker.connection.client.get_run(run_id).info.artifact_uri
    artifact_writer(tracker.uri, Path(tracker.uri.removeprefix("sqlite:///")).parent / "artifacts")(uri, path, "report")
    assert [item.path for item in tracker.connection.client.list_artifacts(run_id, "report")] == ["report/report.md"]


def test_what_it_does_not_know_is_left_to_the_client(tracker: MlflowStore, tmp_path: Path) -> None:
    file = Path(tracker.uri.removeprefix("sqlite:///"))
    assert mlflow_sqlite.open_reader(None, "ours") is None
    assert mlflow_sqlite.open_reader(tmp_path / "absent.db", "ours") is None
    assert not (tmp_path / "absent.db").exists()
    assert mlflow_sqlite.open_reader(file, "no such study") is None
    (tmp_path / "text.db").write_text("no database " * 100)
    assert mlflow_sqlite.open_reader(tmp_path / "text.db", "ours") is None
    for change in (
        "ALTER TABLE latest_metrics RENAME COLUMN is_nan TO missing",
        "DROP TABLE metrics",
        "UPDATE experiments SET lifecycle_stage = 'deleted'",
        "UPDATE experiments SET name = 'ours', workspace = name",
    ):
        copy = tmp_path / f"{abs(hash(change))}.db"
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            assert mlflow_sqlite.open_reader(copy, "ours") is not None
            target.execute(change)
            target.commit()
        assert mlflow_sqlite.open_reader(copy, "ours") is None, change


def test_reading_changes_nothing(tracker: MlflowStore) -> None:
    file = Path(tracker.uri.removeprefix("sqlite:///"))
    with closing(mlflow_sqlite._connect(file)) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM runs")


def test_artifacts_that_cannot_be_stored_are_told_in_one_line(tmp_path: Path, migrated_database: Path) -> None:
    """As with the file of a store whose artifacts are behind its server; the report is written all the same."""
    shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
    found = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "ours", tmp_path / "artifacts")
    found.connect()
    client = found.connection.client
    experiment = client.get_experiment_by_name("ours").experiment_id
    tags = {"ablate.kind": "grid", "ablate.key": key_of("parent")}
    parent = client.create_run(experiment, tags=tags).info.run_id
    child = client.create_run(experiment, tags={"ablate.kind": "run", "mlflow.parentRunId": parent}).info.run_id
    client.log_param(child, "model", "m")
    client.set_terminated(child)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        store.execute("UPDATE runs SET artifact_uri = 'mlflow-artifacts:/0/artifacts'")
        store.commit()
    done = run_ablate("report", "ours", "--log", "--tracking-uri", found.uri, "--out", "out", cwd=tmp_path)
    assert (done.code, len(done.lines)) == (3, 1), done.err
    assert done.line.startswith("ablate: report: written to out, but not logged to the parent run: ")
    assert (tmp_path / "out" / "report.html").is_file() and "written: out/report.html" in done.out


def test_the_report_of_a_local_store_waits_for_no_database_library(tracker: MlflowStore, tmp_path: Path) -> None:
    """The parent imports what writes artifacts, its child what analyses and draws, neither MLflow's SQL store."""
    script = (
        "import os, sys\nfrom pipeline.commands import report as reporting\nbuild = reporting._write\n"
        "def write(*given):\n    print('child:', *sorted(sys.modules), file=sys.stderr)\n    return build(*given)\n"
        "reporting._write = write\n"
        "from pipeline.commands.command_options import ReportOptions\n"
        "reporting.run_report(ReportOptions(study='ours', tracking_uri=sys.argv[1], out='out', log=True))\n"
        "print('parent:', *sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tracker.uri], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    loaded = {line.split(":")[0]: set(line.split()[1:]) for line in done.stderr.splitlines() if ": " in line}
    assert "matplotlib" in loaded["child"] and "mlflow" not in loaded["child"]
    assert "mlflow" in loaded["parent"]
    assert not loaded["parent"] & {"sqlalchemy", "alembic", "pipeline.analysis.effects"}


def test_experiments_are_listed_with_their_tags_and_runs(tracker: MlflowStore) -> None:
    found = mlflow_sqlite.open_readers(store_of(tracker).file)
    assert found is not None
    assert [(one.experiment, one.count_runs()) for one in found] == [("Default", 0), ("ours", 5), ("theirs", 1)]
    client = tracker.connection.client
    assert found[1].experiment_tags() == dict(client.get_experiment_by_name("ours").tags) != {}
    assert mlflow_sqlite.open_readers(None) is None


def test_tables_are_current_as_long_as_mlflow_has_no_later_migration(tracker: MlflowStore, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copyfile(store_of(tracker).file, file)
    assert mlflow_sqlite.tables_are_current(file)
    with closing(sqlite3.connect(file)) as connection:
        (last,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        for version, current in (("0a8213491aaa", False), ("ffffffffffff", False), (last, True)):
            with connection:
                connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
            assert mlflow_sqlite.tables_are_current(file) == current
        with connection:
            connection.execute("DROP TABLE alembic_version")
    assert not mlflow_sqlite.tables_are_current(file)


def test_values_by_digest_are_those_of_the_client(tracker: MlflowStore) -> None:
    client, reader = tracker.connection.client, store_of(tracker)
    rows = tracker.frame()
    for run_id, digest in zip(rows["run_id"], ("d1", "d1", "d2", "d3"), strict=False):
        client.set_tag(run_id, "ablate.digest", digest)
    direct, through = reader.values_by_digest(), tracker.values_by_digest()
    assert set(direct) == set(through) and len(direct) >= 1
    assert {key: repr(value) for key, value in direct.items()} == {key: repr(value) for key, value in through.items()}


def test_the_study_that_was_worked_on_last_is_known(mlflow_store: MlflowStore, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert mlflow_sqlite.last_parent(None) is mlflow_sqlite.last_parent(tmp_path / "absent.db") is None
    assert mlflow_sqlite.last_parent(file) is mlflow_store.last_parent() is None, "there is none yet"
    rows = [
        ("grid", "old", 1, "50"),  # which a later call has gone on with
        ("speed", "young", 30, "nonsense"),
        ("tune", "tuned", 90, "90"),
        ("run", "cell", 99, "99"),
    ]
    for kind, study, start, opened in rows:
        tags = {"ablate.kind": kind, "ablate.study": study, "ablate.opened": opened}
        mlflow_store.create_run(study, tags, name=study, start_time=start)
    assert mlflow_sqlite.last_parent(file) == mlflow_store.last_parent() == ("old", "study")
    mlflow_store.delete_run("old")
    assert mlflow_sqlite.last_parent(file) == mlflow_store.last_parent() == ("young", "study")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DROP TABLE tags")
    assert mlflow_sqlite.last_parent(file) is None
