"""What an entry has to have."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.tracking import entries


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
