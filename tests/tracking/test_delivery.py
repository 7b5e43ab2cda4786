"""Delivery of a journal: outages, replays, offsets that are lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import delivery
from pipeline.tracking.delivery import Delivery, delivered_offset, replay
from pipeline.tracking.journal import Journal


def write(path: Path, entries: Sequence[dict[str, Any]]) -> list[int]:
    """Writes a new journal; returns the offset behind each entry."""
    path.unlink(missing_ok=True)
    book = Journal(path)
    ends = [book.append(entry) for entry in entries]
    book.close()
    return ends


class Memory:
    """A store that keeps what it is given, and can be away."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.away = False
        self.fail_after: int | None = None

    def apply(self, entries: list[dict[str, Any]]) -> None:
        if self.away:
            raise ConnectionError("connection refused\nmore")
        self.entries += entries


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"kind": "metrics", "n": number} for number in range(start, start + count)]


def test_delivery_goes_on_where_an_outage_stopped_it(tmp_path: Path) -> None:
    book, store = Journal(tmp_path / "a.journal"), Memory()
    worker = Delivery(book.path, store)
    worker.start()
    worker.notify(book.append(*numbered(10)))
    assert worker.wait(book.end, 5)
    store.away = True
    worker.notify(book.append(*numbered(2000, 10)))
    assert not worker.wait(book.end, 0.5)
    assert worker.error == "connection refused"
    store.away = False
    assert worker.wait(book.end, 12)
    assert worker.error is None
    assert worker.stop(5)
    assert store.entries == numbered(2010)
    assert delivered_offset(book.path) == book.end


def test_an_entry_that_is_still_being_written_is_not_delivered(tmp_path: Path) -> None:
    """A group whose fsync fails is taken back: what was read of it before must not have gone out."""
    book, store = Journal(tmp_path / "a.journal"), Memory()
    first = book.append(*numbered(1))
    book.append(*numbered(1, 1))
    worker = Delivery(book.path, store)
    worker.notify(first)
    worker.start()
    assert worker.wait(first, 5)
    assert worker.stop(5)
    assert store.entries == numbered(1)


def test_no_heartbeat_before_everything_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 10)
    book, store, beats = Journal(tmp_path / "a.journal"), Memory(), []
    worker = Delivery(book.path, store, lambda: beats.append(len(store.entries)))
    worker.notify(book.append(*numbered(35)))
    worker.start()
    assert worker.wait(book.end, 5)
    worker.stop(5)
    assert all(seen == 35 for seen in beats)


def test_replay_delivers_the_rest_and_closes_what_was_left_open(tmp_path: Path) -> None:
    path, store = tmp_path / "a.journal", Memory()
    rows = [
        {"kind": "open", "key": "parent", "parent": None},
        {"kind": "open", "key": "one", "parent": "parent"},
        {"kind": "close", "key": "one"},
        {"kind": "open", "key": "two", "parent": "parent"},
    ]
    ends = write(path, rows)
    delivery.save_offset(path, ends[1])
    store.away = True
    with pytest.raises(ConnectionError):
        replay(path, store)
    store.away = False
    assert replay(path, store) > 0
    assert store.entries[:2] == rows[2:]
    assert [(e["key"], e["status"], e["orphan"]) for e in store.entries[2:]] == [
        ("two", "KILLED", True),
        ("parent", "KILLED", True),
    ]
    assert replay(path, store) == 0


def test_replay_leaves_a_living_writer_alone(tmp_path: Path) -> None:
    store = Memory()
    book = Journal(tmp_path / "a.journal")
    book.append(*numbered(3))
    assert replay(book.path, store) == 0
    assert store.entries == []
    book.close()
    assert replay(book.path, store) == 3


def test_two_replays_at_once_deliver_once(ram_path: Path) -> None:
    path, store = ram_path / "a.journal", Memory()
    write(path, numbered(3000))
    threads = [threading.Thread(target=replay, args=(path, store)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.entries == numbered(3000)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"offset": null}', '{"offset": "x"}', '{"offset": -5}', "\0"])
def test_a_damaged_offset_only_costs_a_replay(tmp_path: Path, text: str) -> None:
    path, store = tmp_path / "a.journal", Memory()
    write(path, numbered(3))
    delivery.delivered_path(path).write_text(text)
    assert replay(path, store) == 3
    assert store.entries == numbered(3)
