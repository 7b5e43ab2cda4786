"""What is refused for good lies beside the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import OutsideError
from pipeline.tracking.refused import keep_refused, refused_path, remove_refused


def test_each_entry_is_a_line_with_what_the_store_said(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    keep_refused(path, [])
    assert not refused_path(path).exists()
    keep_refused(path, [({"kind": "tags", "values": {"a": "\ud800"}}, "no")])
    keep_refused(path, [({"kind": "close"}, "never")])
    lines = [json.loads(line) for line in (tmp_path / "a.refused").read_text().splitlines()]
    assert [(line["why"], line["entry"]["kind"]) for line in lines] == [("no", "tags"), ("never", "close")]
    remove_refused(path)
    remove_refused(path)
    assert not refused_path(path).exists()


def test_not_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "settings"
    target.write_text("mine")
    (tmp_path / "a.refused").symlink_to(target)
    with pytest.raises(OutsideError, match=r"a\.refused: cannot be written"):
        keep_refused(tmp_path / "a.journal", [({}, "no")])
    assert target.read_text() == "mine"
