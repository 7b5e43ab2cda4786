"""What is appended goes out, and what cannot is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.delivery import delivered_state
from pipeline.tracking.journal import read_entries
from pipeline.tracking.outbox import Outbox
from tests.support.stores import Sink


def test_entries_go_out_in_order_and_stay_in_the_journal(ram_path: Path) -> None:
    sink = Sink()
    beats: list[int] = []
    outbox = Outbox(ram_path / "a.journal", sink, lambda: beats.append(len(sink.entries)))
    first = outbox.append({"kind": "a"})
    assert outbox.append({"kind": "b"}, {"kind": "c"}) == outbox.end > first
    assert sink.entries == [] and not outbox.wait(0.05), "it has not been started"
    outbox.start()
    assert outbox.wait(5) and outbox.error is None
    assert sink.entries == [{"kind": "a"}, {"kind": "b"}, {"kind": "c"}]
    assert [entry for entry, _ in read_entries(outbox.path)] == sink.entries
    assert outbox.drain(5) and beats == [3]
    assert delivered_state(outbox.path).offset == outbox.end
    with pytest.raises(OSError, match="closed"):
        outbox.append({"kind": "d"})


def test_what_a_sink_that_is_away_has_not_got_is_told(ram_path: Path) -> None:
    sink = Sink()
    outbox = Outbox(ram_path / "a.journal", sink, lambda: None)
    outbox.start()
    end = outbox.append({"kind": "a"})
    assert outbox.wait(5)
    sink.away = True
    outbox.append({"kind": "b"})
    while outbox.error is None:
        pass
    assert outbox.error == "connection refused"
    assert outbox.wait(5, end) and not outbox.wait(5)
    assert not outbox.drain(0.1)
    assert delivered_state(outbox.path).offset == end
