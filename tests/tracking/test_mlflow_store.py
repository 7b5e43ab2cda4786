"""Runs of a real store: found by their keys, changed and read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.names import DELIVERED_TAG
from pipeline.errors import InputError, OutsideError
from pipeline.tracking.mlflow_errors import UndeliverableError
from pipeline.tracking.mlflow_store import MlflowStore


def test_a_run_is_found_by_its_key_until_it_is_deleted(mlflow_store: MlflowStore) -> None:
    store = mlflow_store
    assert store.run_id("k") is None and store.known_id("k") is None
    run_id = store.create_run("k", {"ablate.kind": "run", "ablate.digest": "d"}, name="one", start_time=1000)
    another = MlflowStore(store.uri, "study", Path())
    assert store.run_id("k") == another.run_id("k") == store.known_id("k") == run_id
    another.delete_run("k")
    assert MlflowStore(store.uri, "study", Path()).run_id("k") is None
    with pytest.raises(UndeliverableError, match="k"):
        another.known("k")


def test_a_server_is_asked_whether_a_run_has_ended_and_a_database_is_believed(
    mlflow_store: MlflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may answer 200 to anything; each question costs every run of a grid ten milliseconds."""
    run_id = mlflow_store.create_run("k", {}, name="one", start_time=1)
    served = MlflowStore("http://localhost:1", "study", Path())
    served.connection.client = mlflow_store.connection.client
    served.end(run_id, "FINISHED", 2)
    assert mlflow_store.ended_at(run_id) == 2
    monkeypatch.setattr(served.connection.client, "set_terminated", lambda *_: None)
    mlflow_store.reopen(run_id)
    with pytest.raises(OutsideError, match="has not"):
        served.end(run_id, "FINISHED", 3)
    monkeypatch.setattr(mlflow_store.connection.client, "get_run", None)
    mlflow_store.end(run_id, "FINISHED", 3)


def test_a_stamp_is_later_than_all_before_whatever_the_clocks_say(
    mlflow_store: MlflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlflow_store.stamp == 0
    first = mlflow_store.sign()
    assert mlflow_store.stamp == first
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    assert mlflow_store.sign() == mlflow_store.stamp == first + 1
    connection = mlflow_store.connection
    for text in ("", "x", "-1", "1" * 5000, "²"):
        connection.client.set_experiment_tag(connection.experiment_id, DELIVERED_TAG, text)
        assert mlflow_store.stamp == 0


def test_a_run_that_the_client_made_twice_is_one(mlflow_store: MlflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that got lost makes MLflow's client ask again."""
    client = mlflow_store.connection.client
    create = client.create_run

    def twice(*given: Any) -> Any:
        create(*given)
        return create(*given)

    monkeypatch.setattr(client, "create_run", twice)
    run_id = mlflow_store.create_run("k", {}, name="one", start_time=1)
    assert [attempt.run_id for attempt in mlflow_store.attempts()] == [run_id]


def test_an_attempt_is_what_tags_and_status_say(mlflow_store: MlflowStore) -> None:
    store = mlflow_store
    parent = store.create_run("p", {"ablate.kind": "grid", "ablate.command": "grid"}, name="p", start_time=5)
    tags = {"ablate.kind": "run", "ablate.digest": "d", "ablate.owner": "o", "mlflow.parentRunId": parent}
    run_id = store.create_run("k", tags, name="one", start_time=7)
    store.connection.client.create_run(store.connection.experiment_id)  # somebody else's, without a key
    (attempt,) = store.attempts("d")
    assert (attempt.key, attempt.owner, attempt.parent, attempt.start_time) == ("k", "o", parent, 7)
    assert attempt.outcome == ""
    store.end(run_id, "FAILED", 9)
    assert store.attempts("d")[0].outcome == "failed", "a row without an outcome's tag"
    store.set_tag("k", "ablate.outcome", "oom")
    assert store.attempts("d")[0].outcome == "oom"
    assert {a.key for a in store.attempts()} == {"p", "k"} and store.attempts("another' digest") == []


def test_a_heartbeat_opens_a_parent_again(mlflow_store: MlflowStore) -> None:
    run_id = mlflow_store.create_run("p", {}, name="p", start_time=5)
    mlflow_store.end(run_id, "FINISHED", 6)
    assert not mlflow_store.is_open(run_id)
    mlflow_store.beat("p", "mlflow.ablate.heartbeat.me", "7")
    assert mlflow_store.is_open(run_id) and mlflow_store.tags("p")["mlflow.ablate.heartbeat.me"] == "7"
    assert mlflow_store.tags("nobody") == {}


def test_values_tags_and_curves_come_back(mlflow_store: MlflowStore, tmp_path: Path) -> None:
    store = mlflow_store
    for key, status in (("a", "FINISHED"), ("b", "FAILED")):
        run_id = store.create_run(key, {"ablate.digest": f"digest {key}"}, name=key, start_time=5)
        store.log(run_id, [("loss", 2.0, 10, 1), ("loss", 1.0, 20, 2)], {"seed": 3}, {"ablate.tainted": "busy"})
        store.end(run_id, status, 30)
    assert store.values_by_digest() == {"digest a": {"loss": 1.0}}
    assert store.tainted() == {"digest a"}
    frame = store.frame().set_index("run_id")
    assert frame["params.seed"].tolist() == ["3", "3"] and sorted(frame["status"]) == ["FAILED", "FINISHED"]
    curve = store.history([run_id], ["loss", "absent"])
    assert curve[["step", "timestamp", "value"]].values.tolist() == [[1, 10, 2.0], [2, 20, 1.0]]
    (tmp_path / "a.txt").write_text("said")
    store.log_artifact(run_id, tmp_path / "a.txt", "logs")
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("logs/a.txt")] == ["said"]


def test_what_the_store_refuses_is_a_problem(mlflow_store: MlflowStore) -> None:
    run_id = mlflow_store.create_run("k", {}, name="k", start_time=5)
    mlflow_store.log(run_id, params={"seed": 1})
    mlflow_store.log(run_id, params={"seed": 2, "model": "m"})
    assert len(mlflow_store.problems) == 1 and "seed" in mlflow_store.problems[0]
    assert mlflow_store.frame()["params.model"].tolist() == ["m"]


def test_reading_makes_no_store_and_no_experiment(mlflow_store: MlflowStore, tmp_path: Path) -> None:
    absent = MlflowStore(f"sqlite:///{tmp_path}/absent.db", "study", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        absent.connect(create=False)
    assert not (tmp_path / "absent.db").exists()
    other = MlflowStore(mlflow_store.uri, "other", tmp_path)
    other.connect(create=False)
    assert other.attempts() == []
    assert mlflow_store.connection.client.get_experiment_by_name("other") is None


def test_a_deleted_experiment_is_told(mlflow_store: MlflowStore, tmp_path: Path) -> None:
    mlflow_store.connection.client.delete_experiment(mlflow_store.connection.experiment_id)
    with pytest.raises(OutsideError, match="'study' is deleted"):
        MlflowStore(mlflow_store.uri, "study", tmp_path).connect()
