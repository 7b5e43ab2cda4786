"""A lock file that one process holds at a time."""

from __future__ import annotations

from pathlib import Path

from pipeline.tracking.locks import exclusive


def test_an_exclusive_section_is_left_when_it_cannot_be_had(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", 1) as got:
        assert got
        with exclusive(tmp_path / "lock", 0.1) as second:
            assert not second
    with exclusive(tmp_path / "lock", 0) as got:
        assert got
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
