"""What is taken away: its size, the question, and that links are left alone."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from pipeline.commands import removal
from pipeline.errors import InputError


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "x").write_bytes(b"x" * 2048)
    (tmp_path / "a" / "y").write_bytes(b"y" * 1024)
    (tmp_path / "a" / "link").symlink_to(inner / "x")
    assert removal.size_of(tmp_path / "a") == 3072 and removal.size_of(inner / "x") == 2048
    assert removal.size_of(tmp_path / "a" / "link") == 0
    assert removal.sized_lines([tmp_path / "a"]) == [f"       3.0 KiB  {tmp_path}/a"]
    assert removal.in_words(5 * 2**20) == "5.0 MiB"


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "y").write_text("y")
    removal.remove([tmp_path / "link", tmp_path / "gone", tmp_path / "never"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["kept"] and (tmp_path / "kept" / "x").is_file()


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False)])
def test_somebody_is_asked(answer: str, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert removal.confirmed("delete it?", yes=False) is agreed


def test_where_nobody_can_be_asked_yes_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert removal.confirmed("delete it?", yes=True)
    with pytest.raises(InputError, match="--yes"):
        removal.confirmed("delete it?", yes=False)
