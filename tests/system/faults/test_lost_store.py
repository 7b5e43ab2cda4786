"""Stores that are lost, replaced, restored, that refuse, or that only say yes: journals bring everything back, once."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import mlflow_writer
from pipeline.tracking.entries import close_entry, journal_entry, metrics_entry, tags_entry
from pipeline.tracking.journal import Journal
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from tests.support.ablate import ablate_in_process
from tests.support.stores import key_of

pytestmark = pytest.mark.slow
Place = tuple[Path, str]


@pytest.fixture
def place(tmp_path: Path, migrated_store: Callable[[Path], str]) -> Place:
    """A folder with an empty store in it, and the store's address."""
    return tmp_path, migrated_store(tmp_path / "mlruns" / "mlflow.db")


def opening(key: str, parent: str | None = None, **tags: str) -> dict[str, Any]:
    kind = {"ablate.kind": "run" if parent else "grid", "ablate.command": "grid"}
    entry = {"kind": "open", "key": key_of(key), "parent": parent and key_of(parent), "name": key, "time": 1000}
    return {**entry, "tags": kind | tags, "params": {"seed": 1}}


def leave(place: Place, name: str, *entries: dict[str, Any], uri: str = "") -> Path:
    """A journal of a parent and a run that ended well."""
    book = Journal(place[0] / "mlruns" / "journal" / f"{name}.journal")
    rows = [opening(f"{name} p"), opening(f"{name} r", f"{name} p")]
    points = [metrics_entry(key_of(f"{name} r"), {"loss": 1.0 / n}, step=n, time_ms=n) for n in range(1, 5)]
    ends = [close_entry(key_of(f"{name} {row}"), "finished", {"ablate.outcome": "finished"}, 9.0) for row in "rp"]
    book.append(journal_entry(uri or place[1], "study", "o.1.1"), *rows, *points)
    for entry in entries:
        book.append(entry)
    book.append(*ends)
    book.close()
    return book.path


def contents(place: Place, table: str = "runs") -> list[tuple[Any, ...]]:
    query = {
        "runs": "SELECT name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY name",
        "metrics": "SELECT r.name, m.key, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) ORDER BY 1, 2, 3",
    }[table]
    with closing(sqlite3.connect(place[0] / "mlruns" / "mlflow.db")) as store:
        return store.execute(query).fetchall()


def sync(place: Place, *words: str) -> Any:
    return ablate_in_process("sync", *words, "--tracking-uri", place[1], cwd=place[0])


def empty(place: Place, migrated_store: Callable[[Path], str]) -> None:
    for path in (place[0] / "mlruns").glob("mlflow.db*"):
        path.unlink()
    migrated_store(place[0] / "mlruns" / "mlflow.db")


ROWS = [("a p", "FINISHED"), ("a r", "FINISHED"), ("b p", "FINISHED"), ("b r", "FINISHED")]


def test_a_store_that_was_lost_is_made_again_from_delivered_journals(
    place: Place, migrated_store: Callable[[Path], str]
) -> None:
    leave(place, "a")
    leave(place, "b")
    assert sync(place, "--json").json() == {"journals": 2, "entries": 18, "problems": []}
    points = contents(place, "metrics")
    assert contents(place) == ROWS and len(points) == 8
    assert sync(place, "--json").json()["journals"] == 0
    empty(place, migrated_store)
    for journals in (2, 0):
        assert sync(place, "--json").json()["journals"] == journals
        assert (contents(place), contents(place, "metrics")) == (ROWS, points)


def test_an_older_state_that_was_restored_is_noticed_and_gets_the_rest_and_what_was_deleted_stays_so(
    place: Place,
) -> None:
    database = place[0] / "mlruns" / "mlflow.db"
    leave(place, "a")
    assert sync(place).code == 0
    with closing(sqlite3.connect(database)) as store_file:
        store_file.execute("VACUUM INTO ?", (str(place[0] / "backup.db"),))
    leave(place, "b")
    assert sync(place).code == 0
    points = contents(place, "metrics")
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    (place[0] / "backup.db").replace(database)
    store = MlflowStore(place[1], "study", place[0] / "mlruns" / "artifacts")
    store.connect()
    store.connection.client.set_tag(store.known(key_of("a p")), "mlflow.note.content", "my own words")
    for journals in (1, 0):
        assert sync(place, "--json").json()["journals"] == journals, "what was there at the backup is not touched"
        assert (contents(place), contents(place, "metrics")) == (ROWS, points)
    assert sync(place, "--all").code == 0
    assert (contents(place), contents(place, "metrics")) == (ROWS, points)
    assert store.tags(key_of("a p"))["mlflow.note.content"] == "my own words"
    store.delete_run(key_of("a r"))
    assert sync(place, "--all").code == 0
    assert contents(place) == [row for row in ROWS if row[0] != "a r"]


def test_journals_of_earlier_versions_without_a_token_are_brought_back_too(
    place: Place, migrated_store: Callable[[Path], str]
) -> None:
    path = leave(place, "a")
    assert sync(place).code == 0
    offset = path.with_suffix(".delivered")
    earlier = json.dumps({"offset": json.loads(offset.read_text())["offset"]})
    offset.write_text(earlier)
    assert sync(place, "--json").json()["entries"] == 0
    offset.write_text(earlier)
    empty(place, migrated_store)
    assert sync(place, "--json").json()["journals"] == 1
    assert contents(place) == ROWS[:2]


POISON: list[dict[str, Any]] = [
    {"kind": "metrics", "key": key_of("a r"), "time": 10**30, "step": 0, "values": {"m": 1.0}},
    {"kind": "metrics", "key": key_of("a r"), "time": 1e30, "step": 0, "values": {"m": 1.0}},
    {"kind": "metrics", "key": key_of("a r"), "time": 1, "step": 10**30, "values": {"m": 1.0}},
    {"kind": "metrics", "key": key_of("a r"), "time": 1, "step": 0, "values": {"m": 10**400}},
    {"kind": "metrics", "key": key_of("a r"), "time": 1, "step": 0, "values": {"m": "NaN"}},
    {"kind": "metrics", "key": key_of("a r"), "time": 1, "step": 0, "values": {"a\nb?*": 1.0}},
    {"kind": "close", "key": key_of("a r"), "time": 1, "status": "SPLENDID", "outcome": "x", "tags": {}},
    {**opening("never", "nobody"), "time": -(10**25)},
    {"kind": "artifact", "key": key_of("a r"), "path": "/etc/hostname", "folder": ""},
    {"kind": "tags", "key": key_of("a r"), "values": {"k" * 300: "x"}},
    {"kind": "tags", "key": key_of("nobody"), "values": {"x": "y"}},
    {"kind": "tags", "key": None, "values": None},
    {"kind": "open", "key": "../../x", "parent": "nobody", "name": "", "time": 1, "tags": {}, "params": {}},
]


def test_what_no_store_takes_is_set_aside_and_the_rest_goes_on(place: Place) -> None:
    leave(place, "a", *POISON, tags_entry(key_of("a r"), {"behind": "it"}))
    leave(place, "b")
    done = sync(place)
    assert done.code == 3 and done.line.startswith("ablate: not everything was delivered: ")
    assert "a.refused" in done.line and "hostname" not in str(list(place[0].rglob("*")))
    assert contents(place) == ROWS
    kept = (place[0] / "mlruns" / "journal" / "a.refused").read_text().splitlines()
    assert len(kept) == len(POISON)
    assert all(set(json.loads(line)) == {"why", "entry"} for line in kept)
    assert sync(place).code == 0, "told once, and kept"


def test_odd_text_is_stored_escaped(place: Place) -> None:
    leave(place, "a", tags_entry(key_of("a r"), {"odd": "\ud800 \0", "long": "x" * 100_000}))
    assert sync(place).code == 0
    store = MlflowStore(place[1], "study", place[0])
    assert store.tags(key_of("a r"))["odd"] == "\\ud800 \\x00"


@pytest.mark.parametrize("line", [0, 3, 5, -1])
def test_what_is_behind_a_damaged_line_is_delivered_and_the_damage_named(place: Place, line: int) -> None:
    path = leave(place, "a", tags_entry(key_of("a r"), {"x": "1"}))
    leave(place, "b")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"', b"'", 1) if line >= 0 else lines[line][:-9]
    path.write_bytes(b"".join(lines))
    done = sync(place)
    assert done.code == 3 and str(path.name) in done.line and "damaged" in done.line
    assert set(ROWS[2:]) <= set(contents(place))
    assert len(contents(place)) == (2 if line == 0 else 4)


class Answering:
    """A server that answers every request alike.

    Args:
        status: of the answer.
        body: its text.
    """

    def __init__(self, status: int, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_words: Any) -> None:
                pass

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - as the library has them

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def yes() -> Iterator[str]:
    server = Answering(200, b"{}")
    yield server.uri
    server.close()


def test_a_server_that_says_yes_to_everything_has_got_nothing(tmp_path: Path, yes: str) -> None:
    place = (tmp_path, yes)
    path = leave(place, "a")
    for _ in range(2):
        done = sync(place)
        assert done.code == 3 and "is it another server?" in done.line
    assert not path.with_suffix(".delivered").exists()


def test_an_answer_without_content_in_the_middle_counts_for_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing is answered with yes, and nothing is kept."""
    leave(place, "a")
    store = MlflowStore(place[1], "study", place[0])
    client = type(store.connection.client)
    monkeypatch.setattr(client, "set_terminated", lambda *_, **__: None)
    monkeypatch.setattr(MlflowStore, "served", True)
    assert sync(place).code == 3
    monkeypatch.undo()
    assert sync(place).code == 0
    assert contents(place) == ROWS[:2]


def test_one_run_that_is_refused_for_good_keeps_no_other_from_the_store(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP 500 on one run for ever."""
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(mlflow_writer, "PAUSES", (0.0, 0.0))
    leave(place, "a")
    leave(place, "b")
    log = MlflowStore.log

    def refusing(self: MlflowStore, run_id: str, *given: Any, **named: Any) -> Any:
        if run_id == self.known_id(key_of("a r")):
            raise MlflowException("API request to /log-batch failed: too many 500 error responses")
        return log(self, run_id, *given, **named)

    monkeypatch.setattr(MlflowStore, "log", refusing)
    done = sync(place)
    assert done.code == 3 and "too many 500" in done.line and "a.refused" in done.line
    assert dict(contents(place))["b r"] == dict(contents(place))["a p"] == "FINISHED"
    assert len((place[0] / "mlruns" / "journal" / "a.refused").read_text().splitlines()) == 6


def test_what_another_program_made_is_left_alone(place: Place) -> None:
    store = MlflowStore(place[1], "other", place[0])
    client = store.connection.client
    theirs = client.create_experiment("study")
    run = client.create_run(theirs, tags={"ablate.kind": "grid", "ablate.command": "grid"}).info.run_id
    before = client.get_run(run).to_dictionary()
    leave(place, "a")
    done = sync(place)
    assert done.code == 3 and "another program" in done.line
    assert client.get_run(run).to_dictionary() == before
    assert len(client.search_runs([theirs])) == 1 and client.get_experiment(theirs).tags == {}


def test_a_store_that_is_deleted_while_a_grid_delivers_is_filled_anew_and_told(place: Place) -> None:
    store = MlflowStore(place[1], "study", place[0] / "mlruns" / "artifacts")
    store.connect()
    recorder = Recorder(store, place[0] / "mlruns")
    recorder.start()
    recorder.parent.join("grid", {"ablate.command": "grid"}, new=True)
    assert recorder.outbox.wait(20)
    for path in (place[0] / "mlruns").glob("mlflow.db*"):
        path.unlink()
    recorder.parent.log_values({"cells/total": 1.0}, {})
    recorder.close_parent("finished")
    assert recorder.drain(20), recorder.error
    assert [status for _, status in contents(place)] == ["FINISHED"]
    assert contents(place, "metrics") == [("grid", "cells/total", 0, 1.0)]
    (notice,) = recorder.notices()
    assert "deleted, replaced or restored in mid-grid" in notice


def test_a_store_that_is_deleted_at_the_very_end_is_noticed(place: Place) -> None:
    leave(place, "a")
    assert sync(place).code == 0
    store = MlflowStore(place[1], "study", place[0] / "mlruns" / "artifacts")
    store.connect()
    recorder = Recorder(store, place[0] / "mlruns")
    recorder.start()
    recorder.parent.join("grid", {"ablate.command": "grid"}, new=True)
    recorder.close_parent("finished")
    assert recorder.outbox.wait(20)
    for path in (place[0] / "mlruns").glob("mlflow.db*"):
        path.unlink()
    assert not recorder.drain(20)
    assert recorder.error is not None and "a.journal" in recorder.error, "what earlier calls delivered is lost, too"
    assert sync(place).code == 0
    assert contents(place) == [*ROWS[:2], ("grid", "FINISHED")]
