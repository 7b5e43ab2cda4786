"""`ablate sync`: what journals hold comes into the store, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutsideError
from pipeline.tracking import sync
from pipeline.tracking.entries import journal_entry, tags_entry
from pipeline.tracking.journal import Journal
from pipeline.tracking.sync import Delivered, deliver_journals
from tests.support.stores import MemoryStore

URI = "http://user:hunter2@store"


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> dict[str, MemoryStore]:
    """The experiments of the server, by name."""
    made: dict[str, MemoryStore] = {}

    def connected(uri: str, experiment: str, _artifacts: Path) -> MemoryStore:
        assert uri == URI
        return made.setdefault(experiment, MemoryStore(uri, experiment))

    monkeypatch.setattr(sync, "MlflowStore", connected)
    return made


def leave(folder: Path, name: str, *entries: dict[str, Any], uri: str = "http://store", study: str = "one") -> Journal:
    """A journal with a run that is open."""
    journal = Journal(folder / "journal" / f"{name}.journal")
    tags = {"ablate.kind": "run"}
    row = {"kind": "open", "key": name, "parent": None, "name": name, "time": 1, "tags": tags, "params": {}}
    journal.append(journal_entry(uri, study, "o.1.1"), row, *entries)
    return journal


def test_journals_of_this_store_are_delivered_once(ram_path: Path, stores: dict[str, MemoryStore]) -> None:
    leave(ram_path, "a", tags_entry("a", {"x": "1"}), tags_entry("nobody", {"x": "1"})).close()
    leave(ram_path, "b", study="two").close()
    leave(ram_path, "c", uri="http://another").close()
    (ram_path / "journal" / "d.journal").write_bytes(b"not ours")
    living = leave(ram_path, "e")
    refused = f"no run with key nobody in the store (kept in {ram_path}/journal/a.refused)"
    assert deliver_journals(URI, ram_path) == Delivered(2, 6, [refused])
    kept = json.loads((ram_path / "journal" / "a.refused").read_text())
    assert kept == {"why": "no run with key nobody in the store", "entry": tags_entry("nobody", {"x": "1"})}
    assert set(stores) == {"one", "two"}
    assert {run.name: run.status for store in stores.values() for run in store.runs.values()} == {
        "a": "KILLED",
        "b": "KILLED",
    }
    assert stores["one"].run("a").tags["x"] == "1"
    assert deliver_journals(URI, ram_path) == Delivered()
    living.close()
    assert deliver_journals(URI, ram_path).journals == 1


def test_a_store_that_does_not_answer_is_told_and_asked_again_later(
    ram_path: Path, stores: dict[str, MemoryStore]
) -> None:
    leave(ram_path, "a").close()
    stores["one"] = MemoryStore(URI, "one")
    stores["one"].away = True
    with pytest.raises(OutsideError, match="tracking store http://store: connection refused; try again later"):
        deliver_journals(URI, ram_path)
    stores["one"].away = False
    assert deliver_journals(URI, ram_path).journals == 1


def test_nothing_to_deliver_asks_nobody(ram_path: Path, stores: dict[str, MemoryStore]) -> None:
    assert deliver_journals(URI, ram_path) == Delivered()
    assert stores == {}
