"""Delivery of a journal: outages, replays, offsets that are lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import delivery
from pipeline.tracking.delivery import DeliveredState, Delivery, delivered_state
from pipeline.tracking.journal import Journal
from tests.support.stores import Sink


def write(path: Path, entries: Sequence[dict[str, Any]]) -> list[int]:
    """Writes a new journal; returns the offset behind each entry."""
    path.unlink(missing_ok=True)
    book = Journal(path)
    ends = [book.append(entry) for entry in entries]
    book.close()
    return ends


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"kind": "metrics", "n": number} for number in range(start, start + count)]


def test_delivery_goes_on_where_an_outage_stopped_it(tmp_path: Path) -> None:
    book, store = Journal(tmp_path / "a.journal"), Sink()
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
    assert delivered_state(book.path).stamp == 0, "not all yet"
    assert worker.stop(5)
    assert store.entries == numbered(2010)
    assert delivered_state(book.path) == DeliveredState(book.end, store.token, store.stamp) and store.stamp == 1


def test_an_entry_that_is_still_being_written_is_not_delivered(tmp_path: Path) -> None:
    """A group whose fsync fails is taken back: what was read of it before must not have gone out."""
    book, store = Journal(tmp_path / "a.journal"), Sink()
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
    book, store, beats = Journal(tmp_path / "a.journal"), Sink(), []
    worker = Delivery(book.path, store, lambda: beats.append(len(store.entries)))
    worker.notify(book.append(*numbered(35)))
    worker.start()
    assert worker.wait(book.end, 5)
    worker.stop(5)
    assert all(seen == 35 for seen in beats)
