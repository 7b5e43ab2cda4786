"""What journals tell of attempts, beside what the store knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.attempts import Attempt, History, attempt_of
from pipeline.tracking.delivery import save_offset
from pipeline.tracking.entries import close_entry, journal_entry, tags_entry, withdraw_entry
from pipeline.tracking.journal import Journal

URI, EXPERIMENT = "http://store", "study"


def opening(key: str, digest: str = "", *, kind: str = "run", time: int = 1, **tags: str) -> dict[str, Any]:
    given = {"ablate.kind": kind, **({"ablate.digest": digest} if digest else {}), "ablate.owner": "o.1.1", **tags}
    entry = {"kind": "open", "key": key, "parent": "parent", "name": key, "time": time, "params": {}}
    return {**entry, "tags": given}


@pytest.fixture
def history(ram_path: Path) -> History:
    return History(ram_path, URI, EXPERIMENT)


@pytest.fixture
def journal(ram_path: Path) -> Journal:
    made = Journal(ram_path / "a.journal")
    made.append(journal_entry(URI, EXPERIMENT, "o.1.1"))
    return made


def known(history: History, stored: list[Attempt] | None = None, digest: str | None = None) -> dict[str, Attempt]:
    return {attempt.key: attempt for attempt in history.merge(stored, history.delivered(), digest)}


def test_a_journal_is_read_as_it_grows(history: History, journal: Journal) -> None:
    journal.append(opening("a", "d1"), opening("b", "d2"))
    assert {key: a.outcome for key, a in known(history).items()} == {"a": "", "b": ""}
    journal.append(close_entry("a", "oom", {}), opening("c", "d1"), withdraw_entry("b"))
    assert {key: a.outcome for key, a in known(history).items()} == {"a": "oom", "c": ""}
    assert set(known(history, digest="d1")) == {"a", "c"} and known(history, digest="d2") == {}


def test_journals_of_other_studies_are_skipped(history: History, journal: Journal, ram_path: Path) -> None:
    other = Journal(ram_path / "b.journal")
    other.append(journal_entry(URI, "another", "x.2.2"), opening("theirs", "d1"))
    journal.append(opening("ours", "d1"))
    assert set(known(history)) == {"ours"}
    assert history.owners() == {"o.1.1", "x.2.2"}


def test_a_row_may_be_closed_from_another_journal(history: History, journal: Journal, ram_path: Path) -> None:
    journal.append(opening("a", "d1"))
    second = Journal(ram_path / "b.journal")
    second.append(journal_entry(URI, EXPERIMENT, "x.2.2"), close_entry("a", "interrupted", {}))
    assert known(history)["a"].outcome == "interrupted"


def test_the_journal_is_ahead_of_the_store(history: History, journal: Journal) -> None:
    journal.append(opening("a", "d1"), close_entry("a", "finished", {}))
    in_store = Attempt("a", "d1", "", "o.1.1", run_id="id", claim="held")
    merged = known(history, [in_store, Attempt("elsewhere", "d1", "failed", "p.1.1")])
    assert (merged["a"].outcome, merged["a"].run_id, merged["a"].claim) == ("finished", "id", "held")
    assert set(merged) == {"a", "elsewhere"}


def test_a_row_that_was_deleted_in_the_store_counts_no_more(history: History, journal: Journal) -> None:
    save_offset(journal.path, journal.append(opening("a", "d1")))
    journal.append(opening("b", "d1"))
    assert set(known(history, [])) == {"b"}, "that one has not been delivered"
    assert set(known(history, None)) == {"a", "b"}, "the store is away"


def test_of_a_parent_the_store_knows_more(history: History, journal: Journal) -> None:
    journal.append(opening("p", kind="grid", time=5), tags_entry("p", {"ablate.claim": "held"}))
    assert known(history)["p"].claim == "held"
    journal.append(opening("p", kind="grid", time=9))
    assert (known(history)["p"].claim, known(history)["p"].start_time) == ("held", 5)
    in_store = Attempt("p", "", "finished", "x.2.2", kind="grid")
    assert known(history, [in_store])["p"] is in_store


def test_entries_without_their_fields_are_skipped(history: History, journal: Journal) -> None:
    journal.append({"kind": "open", "key": "a"}, {"kind": "new"}, opening("b", "d1"))
    assert set(known(history)) == {"b"}


def test_an_attempt_is_made_of_tags() -> None:
    """Heartbeats of earlier versions, which MLflow's pages show, are read as well."""
    tags = {"ablate.heartbeat.x.1.1": "17", "mlflow.ablate.heartbeat.y.1.1": "ended", "ablate.command": "grid"}
    attempt = attempt_of("k", tags, start_time=3, parent="")
    assert attempt.heartbeats == (("x.1.1", "17"), ("y.1.1", "ended"))
    assert (attempt.command, attempt.digest, attempt.outcome) == ("grid", "", "")
