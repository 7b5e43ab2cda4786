"""Journals of earlier versions are read, delivered and replayed; nothing is appended to them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.delivery import delivered_state, save_offset
from pipeline.tracking.journal import Journal, read_entries, valid_end
from pipeline.tracking.replay import replay
from tests.support.stores import Sink

ENTRIES: list[dict[str, Any]] = [
    {"kind": "open", "key": "parent", "parent": None, "name": "ä\udcff"},
    {"kind": "open", "key": "one", "parent": "parent"},
    {"kind": "metrics", "key": "one", "values": {"loss": float("inf")}},
    {"kind": "close", "key": "one"},
]


def binary(*entries: dict[str, Any]) -> bytes:
    """A journal as versions up to 0.2 wrote it."""
    payloads = [json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") for entry in entries]
    frames = [struct.pack("<II", len(payload), zlib.crc32(payload)) + payload for payload in payloads]
    return b"ablate-journal-1\n" + b"".join(frames)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.journal"
    path.write_bytes(binary(*ENTRIES))
    return path


def contents(path: Path) -> list[dict[str, Any]]:
    return [entry for entry, _ in read_entries(path)]


def test_every_entry_comes_back_with_the_offset_behind_it(path: Path) -> None:
    ends = [end for _, end in read_entries(path)]
    assert contents(path) == ENTRIES
    assert ends == [len(binary(*ENTRIES[:count])) for count in (1, 2, 3, 4)]
    assert [entry for entry, _ in read_entries(path, ends[1])] == ENTRIES[2:]
    assert valid_end(path) == path.stat().st_size


def test_a_cut_or_a_flipped_bit_ends_the_readable_part(path: Path) -> None:
    whole, second = path.read_bytes(), len(binary(*ENTRIES[:2]))
    for end in range(second, len(binary(*ENTRIES[:3]))):
        path.write_bytes(whole[:end])
        assert contents(path) == ENTRIES[:2]
        path.write_bytes(whole[:end] + bytes([whole[end] ^ 4]) + whole[end + 1 :])
        assert contents(path) == ENTRIES[:2]


def test_a_length_that_cannot_be_is_damage(path: Path) -> None:
    path.write_bytes(binary(*ENTRIES[:1]) + struct.pack("<II", 2**32 - 1, 0) + b"x" * 100)
    assert contents(path) == ENTRIES[:1]


@pytest.mark.parametrize("payload", [b"[1]", b"{", b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"])
def test_a_frame_that_holds_no_entry_is_damage(path: Path, payload: bytes) -> None:
    frame = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    path.write_bytes(binary(*ENTRIES[:1]) + frame + path.read_bytes())
    assert contents(path) == ENTRIES[:1]


def test_it_is_not_written_to(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(OSError, match="earlier version"):
        Journal(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.journal"]


def test_a_replay_goes_on_behind_the_offset_of_the_earlier_version(path: Path) -> None:
    sink = Sink()
    save_offset(path, len(binary(*ENTRIES[:2])), sink.token)
    assert replay(path, sink) == 2
    assert sink.entries[:2] == ENTRIES[2:]
    assert [(entry["key"], entry["orphan"]) for entry in sink.entries[2:]] == [("parent", True)]
    assert delivered_state(path).offset == path.stat().st_size
    assert replay(path, sink) == 0
