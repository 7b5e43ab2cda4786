"""Folders of arrays: written whole or not at all, by one process or several, and checked."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OutsideError
from pipeline.training.data import array_files, digits
from pipeline.training.data.store import verify_dataset
from tests.support.data import open_store


def _place(data_dir: Path) -> Path:
    return data_dir / "stores" / "digits-v1"


def test_verify_finds_one_flipped_bit(tmp_path: Path) -> None:
    assert "not prepared" in verify_dataset("digits", tmp_path)[0]
    open_store("digits", tmp_path)
    assert verify_dataset("digits", tmp_path) == []
    path = _place(tmp_path) / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problems = verify_dataset("digits", tmp_path)
    assert len(problems) == 1 and str(path) in problems[0] and "SHA-256" in problems[0]


@pytest.mark.parametrize(
    "header",
    [
        b"('",
        b"((\n",
        b"[" * 90,
        b"\xff",
        b"1 #",
        b"{} #",
        b"{'descr': 1} #",
        b"'" + b"a" * 80,
        b"\0",
        b"  x",
        b"9" * 90,
    ],
)
def test_a_header_that_is_none_is_damage(header: bytes, tmp_path: Path) -> None:
    open_store("digits", tmp_path)
    path = _place(tmp_path) / "test_labels.npy"
    content = path.read_bytes()
    path.write_bytes(content[:10] + header + content[10 + len(header) :])  # behind magic, version and length
    assert array_files.open_arrays(_place(tmp_path)) is None
    open_store("digits", tmp_path)
    assert path.read_bytes() == content, "made anew"


def test_full_disk_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutsideError, match="No space left"):
        open_store("digits", tmp_path)
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["digits-v1.lock"]


def _prepare_slowly(data_dir: Path, locks: bool, results: Any) -> None:
    write = array_files.write_arrays

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        results.put("built")
        return write(*arguments)

    digits.write_arrays = slow  # type: ignore[assignment]
    if not locks:
        fcntl.flock = _no_lock
    results.put(open_store("digits", data_dir).digest)


def _no_lock(*_arguments: Any) -> None:
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_processes_preparing_at_once_all_succeed(locks: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_prepare_slowly, args=(tmp_path, locks, results)) for _ in range(3)]
    for child in children:
        child.start()
    said = [results.get(timeout=60) for _ in range(4 if locks else 6)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert said.count("built") == (1 if locks else 3)
    assert set(said) == {"built", "6a3e29e654909f532033bcc994ca7c99"}
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["digits-v1", "digits-v1.lock"]


def _die_while_building(data_dir: Path) -> None:
    write = array_files.write_array

    def killed(work: Path, name: str, *arguments: Any) -> Any:
        if name == "test_images":
            os.kill(os.getpid(), signal.SIGKILL)
        return write(work, name, *arguments)

    array_files.write_array = killed  # type: ignore[assignment]
    open_store("digits", data_dir)


def test_killed_preparation_is_redone_and_swept(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_die_while_building, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "stores").iterdir() if path.is_dir()]
    assert len(left) == 1 and left[0].startswith(".digits-v1-"), "half a store, under no store's name"
    assert "not prepared" in verify_dataset("digits", tmp_path)[0]
    assert open_store("digits", tmp_path).digest == "6a3e29e654909f532033bcc994ca7c99"
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["digits-v1", "digits-v1.lock"]


def test_store_is_readable_by_the_group(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        open_store("digits", tmp_path)
    finally:
        os.umask(old)
    assert _place(tmp_path).stat().st_mode & 0o777 == 0o755
    assert json.loads((_place(tmp_path) / "meta.json").read_text())["files"].keys() == set(array_files.NAMES)


def test_a_held_lock_is_waited_for_with_a_word_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "LOCK_SECONDS", 0.3)
    said: list[str] = []
    with array_files.locked(tmp_path / "store"):
        assert (tmp_path / "store.lock").stat().st_mode & 0o777 == 0o600
        (tmp_path / ".store-work").mkdir()
        with array_files.locked(tmp_path / "store", lambda text, *_: said.append(text)):
            assert said == ["waiting for another process that prepares store"]
        assert (tmp_path / ".store-work").is_dir(), "the holder's work"
    with array_files.locked(tmp_path / "store", lambda text, *_: said.append(text)):
        assert len(said) == 1 and not (tmp_path / ".store-work").exists()


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("elsewhere")])
def test_a_lock_that_is_no_file_of_ours_is_told(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "store.lock")
    with (
        pytest.raises(OSError, match=r"not a regular file|a link, which is not followed"),
        array_files.locked(tmp_path / "store"),
    ):
        pytest.fail("taken")
    assert not (tmp_path / "elsewhere").exists()
