"""A controller's recorder: nobody else runs its cells, and what it was told is in the store at the end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.design.names import CLAIM_TAG, HEARTBEAT_TAG, OUTCOME_TAG
from pipeline.design.records import Artifact, End, Metrics, Phase, Tags
from pipeline.errors import OutsideError
from pipeline.tracking import known_attempts, recorder
from pipeline.tracking.journal import Journal, read_entries
from pipeline.tracking.liveness import ENDED
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import OpenRun, Recorder
from tests.support.stores import MemoryStore, small_plan

PLAN = small_plan(3)
CELL, OTHER_CELL = PLAN.runs[0], PLAN.runs[1]
GRID = {"ablate.command": "grid"}
MakeRecorder = Callable[..., Recorder]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make_recorder(ram_path: Path, store: MemoryStore) -> Iterator[MakeRecorder]:
    """Makes recorders that have joined; those of another folder stand for another host's."""
    made: list[Recorder] = []

    def make(folder: str = "here") -> Recorder:
        one = Recorder(cast(MlflowStore, store), ram_path / folder)
        made.append(one)
        one.start()
        one.parent.join("grid", GRID, new=False)
        return one

    yield make
    for one in made:
        one.drain(0.0)


def claimed(one: Recorder, folder: Path) -> OpenRun:
    opened = one.claim(CELL, PLAN, folder)
    assert opened is not None
    return opened


def test_records_of_a_run_are_in_the_store_in_the_end(make_recorder: MakeRecorder, store: MemoryStore) -> None:
    one = make_recorder()
    work = one.outbox.path.parents[1] / "work"
    work.mkdir()
    opened = claimed(one, work)
    (work / "a.txt").write_text("a")
    for record in (
        Phase(time=1.0, name="train"),
        Metrics(time=2.5, step=3, values={"train/loss": 0.5}),
        Metrics(time=4.0, values={"time/train_seconds": 9.0}),
        Tags(time=4.0, values={"env.device": "cpu"}),
        Artifact(time=4.0, path="a.txt", folder="logs"),
    ):
        one.record(opened, record)
    one.close(opened, End(time=5.0, outcome="finished"), {"tune.outcome": "kept"})
    one.close_parent("finished")
    assert one.drain(10)
    row = store.run(opened.key)
    assert row.metrics == [("train/loss", 0.5, 2500, 3), ("time/train_seconds", 9.0, 4000, 0)]
    assert opened.values == {"train/loss": 0.5, "time/train_seconds": 9.0}
    assert (row.status, row.end_time, row.artifacts) == ("FINISHED", 5000, ["logs/a.txt"])
    assert {"env.device": "cpu", "tune.outcome": "kept", OUTCOME_TAG: "finished"}.items() <= row.tags.items()
    assert row.params["model"] == "test_resnet"
    assert row.tags["mlflow.parentRunId"] == store.known(one.parent.key)
    assert store.run(one.parent.key).status == "FINISHED"


@pytest.mark.parametrize("folder", ["here", "elsewhere"])
def test_a_cell_that_is_held_or_finished_is_not_given_out(
    make_recorder: MakeRecorder, store: MemoryStore, tmp_path: Path, folder: str
) -> None:
    first, second = make_recorder(), make_recorder(folder)
    opened = claimed(first, tmp_path)
    assert store.run(opened.key).tags[CLAIM_TAG] == "held"
    assert second.claim(CELL, PLAN, tmp_path) is None
    assert second.claim(OTHER_CELL, PLAN, tmp_path) is not None
    first.close(opened, End(time=1.0, outcome="finished"))
    assert first.outbox.wait(5)
    assert second.claim(CELL, PLAN, tmp_path) is None


@pytest.mark.parametrize("outcome", ["failed", "interrupted"])
def test_a_cell_whose_run_failed_is_free_again(make_recorder: MakeRecorder, tmp_path: Path, outcome: Any) -> None:
    one = make_recorder()
    one.close(claimed(one, tmp_path), End(time=1.0, outcome=outcome))
    assert one.claim(CELL, PLAN, tmp_path) is not None


def test_a_claim_that_a_rival_came_before_is_withdrawn(
    make_recorder: MakeRecorder, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_recorder()
    before = set(store.runs)
    monkeypatch.setattr(recorder, "settle_claim", lambda *_: False)
    assert one.claim(CELL, PLAN, tmp_path) is None
    assert one.outbox.wait(5)
    assert set(store.runs) == before
    monkeypatch.undo()
    assert one.claim(CELL, PLAN, tmp_path) is not None, "the local claim was given back, too"


def test_while_the_store_is_away_a_cell_is_only_held_where_nobody_else_may_be(
    make_recorder: MakeRecorder, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_recorder()
    assert one.outbox.wait(5)
    store.away = True
    one.outbox.append({"kind": "tags", "key": one.parent.key, "values": {}})
    while one.error is None:
        time.sleep(0.01)
    opened = one.claim(CELL, PLAN, tmp_path)
    assert opened is not None
    one.close(opened, End(time=1.0, outcome="failed"))
    monkeypatch.setattr(known_attempts.KnownAttempts, "other_hosts_active", lambda _self: True)
    assert one.claim(CELL, PLAN, tmp_path) is None


def test_a_store_that_never_answered_is_told(make_recorder: MakeRecorder, store: MemoryStore) -> None:
    store.away = True
    with pytest.raises(OutsideError, match="http://store: connection refused"):
        make_recorder()


def test_a_folder_that_cannot_be_written_is_told(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutsideError, match=r"journal .*: cannot be written"):
        Recorder(cast(MlflowStore, store), tmp_path / "file")


def test_what_a_dead_controller_left_is_delivered_and_closed(
    make_recorder: MakeRecorder, store: MemoryStore, ram_path: Path
) -> None:
    head = {"kind": "journal", "uri": store.uri, "experiment": "study", "owner": "host-0.1.1"}
    rows: list[dict[str, Any]] = [
        {"kind": "open", "key": "p", "parent": None, "name": "g", "time": 1, "tags": {}, "params": {}},
        {"kind": "open", "key": "r", "parent": "p", "name": "r", "time": 2, "tags": {}, "params": {}},
    ]
    for name, first in (("dead", head), ("foreign", {**head, "experiment": "another"})):
        left = Journal(ram_path / "here" / "journal" / f"{name}.journal")
        left.append(first, *rows)
        left.close()
        rows = [{**row, "key": f"{row['key']}2"} for row in rows]
    make_recorder()
    assert (store.run("r").status, store.run("r").tags["ablate.error"]) == ("KILLED", "its controller died")
    assert store.run_id("r2") is None, "of another study"


def test_rows_that_are_open_at_the_end_are_closed_before_the_parent(
    make_recorder: MakeRecorder, store: MemoryStore, tmp_path: Path
) -> None:
    one = make_recorder()
    opened = one.open(CELL, PLAN, tmp_path)
    assert one.outbox.wait(5) and store.run(opened.key).tags[CLAIM_TAG] == "held"
    one.close_parent("failed")
    assert one.drain(5)
    assert (store.run(opened.key).status, store.run(opened.key).tags[OUTCOME_TAG]) == ("KILLED", "interrupted")
    kinds = [(entry["kind"], entry.get("key")) for entry, _ in read_entries(one.outbox.path)]
    assert [key for kind, key in kinds if kind == "close"] == [opened.key, one.parent.key]


def test_when_the_journal_refuses_rows_are_closed_in_the_store_itself(
    make_recorder: MakeRecorder, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_recorder()
    opened = claimed(one, tmp_path)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        one.record(opened, Metrics(time=1.0, values={"a": 1.0}))
    one.emergency_close()
    assert store.run(opened.key).status == store.run(one.parent.key).status == "KILLED"
    beats = [value for name, value in store.run(one.parent.key).tags.items() if name.startswith(HEARTBEAT_TAG)]
    assert beats == [ENDED]
