"""What one controller knows of others' tries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from pipeline.errors import OutsideError
from pipeline.tracking.attempts import Attempt
from pipeline.tracking.entries import journal_entry
from pipeline.tracking.journal import Journal
from pipeline.tracking.known_attempts import KnownAttempts
from pipeline.tracking.liveness import ENDED, owner
from pipeline.tracking.mlflow_store import MlflowStore
from tests.support.stores import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore("http://user:hunter2@store")
    made.create_run(
        "theirs", {"ablate.kind": "run", "ablate.digest": "d", "ablate.owner": "x.1.1"}, name="", start_time=1
    )
    return made


def known_in(store: MemoryStore, folder: Path, is_away: Callable[[], bool] = lambda: False) -> KnownAttempts:
    return KnownAttempts(cast(MlflowStore, store), folder, is_away)


def test_a_store_that_has_never_answered_is_told_without_its_password(store: MemoryStore, ram_path: Path) -> None:
    store.away = True
    with pytest.raises(OutsideError, match="tracking store http://store: connection refused"):
        known_in(store, ram_path, lambda: True).attempts()


def test_once_it_has_answered_journals_do_while_it_is_away(store: MemoryStore, ram_path: Path) -> None:
    journal = Journal(ram_path / "a.journal")
    tags = {"ablate.kind": "run", "ablate.digest": "d", "ablate.owner": "o.1.1"}
    row = {"kind": "open", "key": "ours", "parent": "p", "name": "n", "time": 1, "params": {}, "tags": tags}
    journal.append(journal_entry("http://store", "study", "o.1.1"), row)
    known = known_in(store, ram_path)
    assert {attempt.key for attempt in known.attempts("d")} == {"theirs", "ours"}
    store.away = True
    assert {attempt.key for attempt in known.attempts("d")} == {"ours"}


def test_a_store_that_delivery_finds_away_is_not_asked(store: MemoryStore, ram_path: Path) -> None:
    away: list[bool] = []
    known = known_in(store, ram_path, lambda: bool(away))
    assert len(known.attempts()) == 1
    away.append(True)
    assert known.attempts() == []


def test_who_has_ended_on_one_parent_may_be_at_work_on_another(store: MemoryStore, ram_path: Path) -> None:
    known = known_in(store, ram_path)
    known.observe([("x.1.1", ENDED), ("x.1.1", "17"), ("y.1.1", "17"), ("y.1.1", ENDED), ("z.1.1", ENDED)])
    assert [known.is_at_work(name) for name in ("x.1.1", "y.1.1", "z.1.1")] == [True, True, False]


def test_an_attempt_lives_while_one_of_its_controllers_does(store: MemoryStore, ram_path: Path) -> None:
    known = known_in(store, ram_path)
    dead = f"{owner().partition('.')[0]}.999999999.1"
    assert not known.is_alive(Attempt("k", "d", "", dead)) and known.is_alive(Attempt("k", "d", "", owner()))
    assert not known.is_alive(Attempt("k", "d", "failed", owner())), "it has ended"
    assert known.is_alive(Attempt("p", "", "", dead, kind="grid", heartbeats=((owner(), "1"),)))
    assert not known.is_alive(Attempt("r", "d", "", dead, heartbeats=((owner(), "1"),))), "a run has one"
    assert [known.holds(Attempt("k", "d", outcome, dead)) for outcome in ("finished", "oom", "failed", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_controller_of_this_folder_is_no_other_host(store: MemoryStore, ram_path: Path) -> None:
    known = known_in(store, ram_path)
    assert not known.other_hosts_active()
    known.observe([("x.1.1", "17")])
    assert known.other_hosts_active()
    Journal(ram_path / "x.journal").append(journal_entry("http://store", "study", "x.1.1"))
    assert not known.other_hosts_active(), "a shared folder: its local claims keep it apart"
