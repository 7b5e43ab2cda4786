"""Entries become runs, in order, and any number of times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.design.names import HEARTBEAT_TAG
from pipeline.tracking.entries import (
    artifact_entry,
    close_entry,
    interrupted_entry,
    metrics_entry,
    now_ms,
    tags_entry,
    withdraw_entry,
)
from pipeline.tracking.liveness import ENDED, owner
from pipeline.tracking.mlflow_errors import UndeliverableError
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from tests.support.stores import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def writer(store: MemoryStore, tmp_path: Path) -> MlflowWriter:
    return MlflowWriter(cast(MlflowStore, store), tmp_path)


def opening(key: str, parent: str | None = None, **tags: str) -> dict[str, Any]:
    entry = {"kind": "open", "key": key, "parent": parent, "name": f"run {key}", "time": 1000, "params": {"seed": 1}}
    return {**entry, "tags": tags}


def test_a_run_is_made_filled_and_ended(store: MemoryStore, writer: MlflowWriter, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.txt").write_text("a")
    entries = [
        opening("parent"),
        opening("one", "parent", colour="red"),
        metrics_entry("one", {"loss": 0.5}, step=2, time_ms=7),
        tags_entry("one", {"colour": "blue"}),
        artifact_entry("one", tmp_path / "work" / "a.txt", "logs"),
        close_entry("one", "oom", {"ablate.outcome": "oom"}, 9.0),
    ]
    for _ in range(2):  # what is applied again changes nothing
        writer.apply(entries)
        run = store.run("one")
        assert (run.name, run.start_time, run.status, run.end_time) == ("run one", 1000, "FAILED", 9000)
        assert run.tags["mlflow.parentRunId"] == store.known("parent")
        assert run.metrics == [("loss", 0.5, 7, 2)] and run.params == {"seed": 1}
        assert len(store.runs) == 2 and store.problems == []
    assert run.tags["ablate.outcome"] == "oom"


def test_records_of_one_run_are_one_call_and_stay_before_its_end(
    store: MemoryStore, writer: MlflowWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    log, end = store.log, store.end
    monkeypatch.setattr(store, "log", lambda *given, **named: (calls.append(("log", named)), log(*given, **named))[1])
    monkeypatch.setattr(store, "end", lambda *given: (calls.append(("end", given)), end(*given)))
    writer.apply([opening("a"), opening("b")])
    calls.clear()
    records = [metrics_entry(key, {"loss": float(step)}, step=step, time_ms=step) for step in range(9) for key in "ab"]
    writer.apply([*records, close_entry("a", "finished", {})])
    assert [name for name, _ in calls] == ["log", "log", "end", "log"]
    assert [point[3] for point in calls[0][1]["metrics"]] == list(range(9))


def test_a_parent_that_is_opened_again_goes_on(store: MemoryStore, writer: MlflowWriter) -> None:
    writer.apply([opening("p"), close_entry("p", "finished", {}), opening("p", host="second")])
    assert store.run("p").status == "RUNNING" and store.run("p").tags["host"] == "second"
    writer.apply([opening("r", "p"), close_entry("r", "finished", {}), opening("r", "p")])
    assert store.run("r").status == "FINISHED", "a run is not"


def test_a_withdrawn_row_is_gone_and_may_be_withdrawn_twice(store: MemoryStore, writer: MlflowWriter) -> None:
    writer.apply([opening("p"), withdraw_entry("p"), withdraw_entry("p")])
    assert store.runs == {} and store.problems == []


@pytest.mark.parametrize(
    ("beats", "closed"),
    [
        ({}, True),
        ({"elsewhere.1.1": ENDED}, True),
        ({"elsewhere.1.1": str(now_ms(time.time() - 3600))}, True),
        ({"elsewhere.1.1": str(now_ms(time.time() + 86_400))}, False),
        ({owner(): "1"}, False),
    ],
)
def test_an_orphan_is_closed_unless_somebody_is_at_work_on_it(
    store: MemoryStore, writer: MlflowWriter, beats: dict[str, str], closed: bool
) -> None:
    writer.apply([opening("p", **{HEARTBEAT_TAG + name: value for name, value in beats.items()})])
    writer.apply([{**interrupted_entry("p", "its controller died"), "orphan": True}])
    assert (store.run("p").status == "KILLED") is closed


def test_an_orphan_that_somebody_has_closed_keeps_its_outcome(store: MemoryStore, writer: MlflowWriter) -> None:
    writer.apply([opening("p"), close_entry("p", "finished", {"ablate.outcome": "finished"})])
    writer.apply([{**interrupted_entry("p", "its controller died"), "orphan": True}])
    assert (store.run("p").status, store.run("p").tags["ablate.outcome"]) == ("FINISHED", "finished")


def test_what_can_never_be_written_is_noted_and_the_rest_goes_on(
    store: MemoryStore, writer: MlflowWriter, tmp_path: Path
) -> None:
    writer.apply(
        [
            opening("p"),
            {"kind": "metrics", "key": "p", "time": 1, "values": {"a": "x"}},
            {"kind": "from the future"},
            artifact_entry("p", tmp_path / "gone.txt", ""),
            tags_entry("nobody", {"a": "b"}),
            tags_entry("p", {"a": "b"}),
        ]
    )
    assert store.run("p").tags["a"] == "b"
    assert store.problems == [
        "an entry of kind 'metrics' that cannot be read",
        "an entry of kind 'from the future' that cannot be read",
        "artifact gone.txt is gone",
        "no run with key nobody in the store",
    ]


def test_a_store_that_is_away_is_raised_and_nothing_noted(store: MemoryStore, writer: MlflowWriter) -> None:
    store.away = True
    with pytest.raises(ConnectionError):
        writer.apply([opening("p")])
    assert store.problems == []


def test_a_key_without_a_run_is_undeliverable(store: MemoryStore) -> None:
    with pytest.raises(UndeliverableError, match="nobody"):
        store.known("nobody")
