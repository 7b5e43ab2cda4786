"""Files are written whole or not at all, and with the permissions that files have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.paths import write_atomically


@pytest.mark.parametrize("content", ["größer", b"\x00\xff"])
@pytest.mark.parametrize("durable", [False, True])
def test_text_and_bytes_replace_what_was_there(content: str | bytes, durable: bool, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old and longer than the new one")
    write_atomically(file, content, durable=durable)
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", ["replace", "chmod"])
def test_a_failure_leaves_the_old_content_and_nothing_beside_it(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fails(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, broken, fails)
    with pytest.raises(OSError, match="no space"):
        write_atomically(file, "new")
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_while_writing_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "new", durable=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", "new")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_mask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", "new")
        assert os.umask(mask) == mask, "the mask itself is left as it is"
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_durable_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then the name, then the folder that holds the name; and no wait where none is asked for."""
    events: list[str] = []
    synced, replaced = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append("folder" if target == tmp_path.resolve() else f"content of {target.stat().st_size}")
        synced(descriptor)

    def replace(source: Path, target: Path) -> Path:
        events.append("name")
        return replaced(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "file", "four", durable=True)
    assert events == ["content of 4", "name", "folder"]
    events.clear()
    write_atomically(tmp_path / "file", "four")
    assert events == ["name"]


def test_data_sets_lie_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.default_data_dir() == tmp_path / "cache" / "ablate" / "data"
    for invalid in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", invalid)
        assert paths.default_data_dir() == tmp_path / ".cache" / "ablate" / "data"
