"""The journal and its delivery: damage, torn tails, refusals of the disk, replays."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.tracking import delivery, entries, journal
from pipeline.tracking.delivery import Delivery, delivered_offset, replay
from pipeline.tracking.journal import JOURNAL_MAGIC, Journal, read_entries, valid_end

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec=None), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=8)


def write(path: Path, entries: Sequence[dict[str, Any]]) -> list[int]:
    """Writes a new journal; returns the offset behind each entry."""
    path.unlink(missing_ok=True)
    book = Journal(path)
    ends = [book.append(entry) for entry in entries]
    book.close()
    return ends


def contents(path: Path) -> list[dict[str, Any]]:
    return [entry for entry, _ in read_entries(path)]


@QUICK
@given(entries=ENTRIES, data=st.data())
def test_a_cut_anywhere_leaves_every_entry_before_it(tmp_path: Path, entries: list[Any], data: st.DataObject) -> None:
    path = tmp_path / "a.journal"
    ends = write(path, entries)
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    whole = [entry for entry, end in zip(entries, ends, strict=True) if end <= cut]
    assert contents(path) == whole
    again = Journal(path)
    again.append({"after": 1})
    again.close()
    assert contents(path) == [*whole, {"after": 1}]


@QUICK
@given(entries=ENTRIES, data=st.data())
def test_flipped_bytes_leave_every_entry_before_them(tmp_path: Path, entries: list[Any], data: st.DataObject) -> None:
    path = tmp_path / "a.journal"
    ends = write(path, entries)
    raw = bytearray(path.read_bytes())
    where = data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4, unique=True))
    for place in where:
        raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    before = [entry for entry, end in zip(entries, ends, strict=True) if end <= min(where)]
    if min(where) < len(JOURNAL_MAGIC):
        before = []
    assert contents(path) == before
    again = Journal(path)
    again.append({"after": 1})
    again.close()
    assert contents(path) == [*before, {"after": 1}]
    assert path.with_name("a.journal.damaged").exists() or min(where) >= len(JOURNAL_MAGIC)


@QUICK
@given(raw=st.binary(max_size=200), head=st.booleans())
def test_any_bytes_are_read_without_an_exception(tmp_path: Path, raw: bytes, head: bool) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes((JOURNAL_MAGIC if head else b"") + raw)
    contents(path)
    assert valid_end(path) <= len(JOURNAL_MAGIC) + len(raw)


def test_nesting_that_overflows_the_stack_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    write(path, [{"a": 1}])
    payload = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with path.open("ab") as stream:
        stream.write(journal._HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
    assert contents(path) == [{"a": 1}]


def test_a_group_that_the_disk_refuses_is_taken_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Journal(tmp_path / "a.journal")
    book.append({"a": 1})
    real, calls = os.pwrite, iter([3, None])

    def refusing(file: int, data: bytes, offset: int) -> int:
        size = next(calls)
        if size is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:size], offset)

    monkeypatch.setattr(os, "pwrite", refusing)
    with pytest.raises(OSError, match="No space"):
        book.append({"b": 1}, {"c": 1})
    monkeypatch.setattr(os, "pwrite", real)
    book.append({"d": 1})
    assert contents(book.path) == [{"a": 1}, {"d": 1}]


def test_one_writer_only_and_its_death_frees_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    book = Journal(path)
    with pytest.raises(OSError):
        Journal(path)
    with journal.abandoned(path) as free:
        assert not free
    book.close()
    with journal.abandoned(path) as free:
        assert free
    with journal.abandoned(tmp_path / "none.journal") as free:
        assert not free


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


def test_two_replays_at_once_deliver_once(tmp_path: Path) -> None:
    path, store = tmp_path / "a.journal", Memory()
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


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "open", "key": "k", "time": "now", "name": "n", "tags": {}, "params": {}},
        {"kind": "open", "key": "k", "time": 1, "name": "n", "tags": [], "params": {}},
        {"kind": "metrics", "key": "k", "time": 1, "values": {"a": "x"}},
        {"kind": "metrics", "key": "k", "time": 1, "values": {"a": 1}, "step": "x"},
        {"kind": "close", "key": 3, "time": 1, "status": "FINISHED", "tags": {}},
        {"kind": ["open"]},
        {"kind": "something new"},
        {},
    ],
)
def test_entries_without_their_fields_are_told_apart(entry: dict[str, Any]) -> None:
    assert not entries.well_formed(entry)


def test_ten_thousand_mutations_of_a_journal(tmp_path: Path) -> None:
    """Any damage: a clean recovery, and what comes back is a beginning of what was written."""
    rng = random.Random(7)
    entries = [{"kind": "metrics", "key": f"k{n}", "values": {"loss": n / 7}, "text": "ä" * n} for n in range(12)]
    path = tmp_path / "a.journal"
    ends = write(path, entries)
    whole = path.read_bytes()
    for _ in range(5000):
        raw = bytearray(whole)
        first = len(raw)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(raw))
            first = min(first, place)
            kind = rng.randrange(4)
            if kind == 0:
                raw[place] ^= rng.randint(1, 255)
            elif kind == 1:
                del raw[place : place + rng.randint(1, 40)]
            elif kind == 2:
                raw[place:place] = rng.randbytes(rng.randint(1, 40))
            else:
                del raw[place:]
            if not raw:
                break
        path.write_bytes(raw)
        found = contents(path)
        sure = sum(end <= first for end in ends) if first >= len(JOURNAL_MAGIC) else 0
        assert found[:sure] == entries[:sure]
        assert all(entry in entries for entry in found)


def test_what_json_can_say_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    entry = {"nan": float("inf"), "surrogate": "\udcff", "deep": json.loads("[" * 50 + "]" * 50)}
    write(path, [entry])
    assert contents(path) == [entry]
