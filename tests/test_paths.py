"""Files are written whole or not at all, and with the permissions that files have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import InputError, OutsideError
from pipeline.paths import own_state_dir, write_atomically


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


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o002, 0o077])
def test_a_state_folder_that_is_made_here_is_ours(mask: int, tmp_path: Path) -> None:
    state = tmp_path / "deep" / "mlruns"
    own_state_dir(state, create=False)
    assert not state.exists()
    before = os.umask(mask)
    try:
        own_state_dir(state)
        own_state_dir(state)
    finally:
        os.umask(before)
    assert state.stat().st_mode & 0o777 == 0o775 & ~mask


@pytest.mark.parametrize(("mode", "allowed"), [(0o777, False), (0o757, False), (0o1777, True), (0o2775, True)])
def test_a_state_folder_into_which_everybody_may_write_is_none(mode: int, allowed: bool, tmp_path: Path) -> None:
    state = tmp_path / "mlruns"
    state.mkdir()
    state.chmod(mode)
    for create in (True, False):
        if allowed:
            own_state_dir(state, create=create)
        else:
            with pytest.raises(InputError, match=r"mlruns: everybody may write into it; chmod o-w .*mlruns"):
                own_state_dir(state, create=create)


def test_a_volume_is_as_who_mounted_it_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns").chmod(0o777)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "mlruns")
    own_state_dir(tmp_path / "mlruns")


def test_what_is_no_folder_cannot_be_made_one(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(OutsideError, match="mlruns: cannot be made"):
        own_state_dir(tmp_path / "mlruns")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
@pytest.mark.parametrize("linked", [False, True])
def test_somebody_elses_state_folder_is_refused(linked: bool, tmp_path: Path) -> None:
    state = tmp_path / "mlruns"
    if linked:  # theirs is the link, to a folder of ours
        (tmp_path / "ours").mkdir()
        state.symlink_to(tmp_path / "ours")
    else:
        state.mkdir()
    os.chown(state, 54321, 54321, follow_symlinks=False)
    with pytest.raises(InputError, match=r"mlruns: belongs to another user \(uid 54321\); take it away"):
        own_state_dir(state)
    os.chown(tmp_path, 54321, 54321)  # a project that somebody has given us to work in, as a container does
    own_state_dir(state)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another group")
def test_a_group_may_write_where_it_is_ours(tmp_path: Path) -> None:
    state = tmp_path / "mlruns"
    state.mkdir()
    os.chown(state, 0, 54321)
    state.chmod(0o2775)
    with pytest.raises(InputError, match=r"another group \(gid 54321\) may write into it; chmod g-w"):
        own_state_dir(state)
    os.chown(tmp_path, 0, 54321)
    own_state_dir(state)


def test_without_a_home_the_data_need_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.default_data_dir() == tmp_path / "ablate" / "data"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        with pytest.raises(InputError, match="--data-dir: no home directory is known; allowed: --data-dir DIR"):
            paths.default_data_dir()
