"""What a dead controller left comes into the store: the rest, once, or all of it again where the store has lost it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import delivery
from pipeline.tracking.journal import Journal
from pipeline.tracking.replay import is_left, replay
from tests.support.stores import Sink


def write(path: Path, entries: Sequence[dict[str, Any]]) -> list[int]:
    """Writes a new journal; returns the offset behind each entry."""
    book = Journal(path)
    ends = [book.append(entry) for entry in entries]
    book.close()
    return ends


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"kind": "metrics", "n": number} for number in range(start, start + count)]


def test_replay_delivers_the_rest_and_closes_what_was_left_open(tmp_path: Path) -> None:
    path, store = tmp_path / "a.journal", Sink()
    rows = [
        {"kind": "open", "key": "parent", "parent": None},
        {"kind": "open", "key": "one", "parent": "parent"},
        {"kind": "close", "key": "one"},
        {"kind": "open", "key": "two", "parent": "parent"},
    ]
    ends = write(path, rows)
    delivery.save_offset(path, ends[1], store.token)
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


def test_an_older_state_of_the_store_gets_what_it_had(tmp_path: Path) -> None:
    path, store = tmp_path / "a.journal", Sink()
    ends = write(path, numbered(3))
    delivery.save_offset(path, ends[-1], store.token, store.sign())
    assert not is_left(path, store) and replay(path, store) == 0
    store.sign()
    assert not is_left(path, store) and replay(path, store) == 0, "another controller has delivered since"
    store.stamp = 0
    assert is_left(path, store) and replay(path, store) == 3
    assert delivery.delivered_state(path).stamp == store.stamp > 0
    assert not is_left(path, store) and replay(path, store) == 0


def test_replay_leaves_a_living_writer_alone(tmp_path: Path) -> None:
    store = Sink()
    book = Journal(tmp_path / "a.journal")
    book.append(*numbered(3))
    assert replay(book.path, store) == 0
    assert store.entries == []
    book.close()
    assert replay(book.path, store) == 3


def test_two_replays_at_once_deliver_once(ram_path: Path) -> None:
    path, store = ram_path / "a.journal", Sink()
    write(path, numbered(3000))
    threads = [threading.Thread(target=replay, args=(path, store)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.entries == numbered(3000)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"offset": null}', '{"offset": "x"}', '{"offset": -5}', "\0"])
def test_a_damaged_offset_only_costs_a_replay(tmp_path: Path, text: str) -> None:
    path, store = tmp_path / "a.journal", Sink()
    write(path, numbered(3))
    delivery.delivered_path(path).write_text(text)
    assert replay(path, store) == 3
    assert store.entries == numbered(3)
