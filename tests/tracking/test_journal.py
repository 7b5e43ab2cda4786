"""The journal: damage, torn tails, refusals of the disk."""

from __future__ import annotations

import errno
import json
import os
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.tracking import journal
from pipeline.tracking.binary_journal import BINARY_MAGIC
from pipeline.tracking.journal import Journal, read_entries, valid_end

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


TEXT = st.text(st.characters(codec=None), max_size=30)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


ENTRIES = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=8)


def write(path: Path, entries: Sequence[dict[str, Any]]) -> list[int]:
    """Writes a new journal; returns the offset behind each entry."""
    path.unlink(missing_ok=True)
    book = Journal(path)
    ends = [book.append(entry) for entry in entries]
    book.close()
    return ends


def contents(path: Path) -> list[dict[str, Any]]:
    return [entry for entry, _ in read_entries(path)]


@QUICK
@given(entries=ENTRIES, data=st.data())
def test_a_cut_anywhere_leaves_every_entry_before_it(ram_path: Path, entries: list[Any], data: st.DataObject) -> None:
    path = ram_path / "a.journal"
    ends = write(path, entries)
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    whole = [entry for entry, end in zip(entries, ends, strict=True) if end <= cut]
    assert contents(path) == whole
    again = Journal(path)
    again.append({"after": 1})
    again.close()
    assert contents(path) == [*whole, {"after": 1}]


@QUICK
@given(entries=ENTRIES, data=st.data())
def test_flipped_bytes_leave_every_whole_line(ram_path: Path, entries: list[Any], data: st.DataObject) -> None:
    path = ram_path / "a.journal"
    ends = write(path, entries)
    raw = bytearray(path.read_bytes())
    where = data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4, unique=True))
    for place in where:
        raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    starts = [0, *ends[:-1]]
    # with the end of the line before it a line is lost, too
    lines = [(max(start - 1, 0), end) for start, end in zip(starts, ends, strict=True)]
    whole = [
        entry
        for entry, (start, end) in zip(entries, lines, strict=True)
        if not any(start <= place < end for place in where)
    ]
    assert contents(path) == whole
    again = Journal(path)
    again.append({"after": 1})
    again.close()
    assert contents(path) == [*whole, {"after": 1}]
    assert path.with_name("a.journal.damaged").exists() or whole


@QUICK
@given(raw=st.binary(max_size=200), head=st.booleans())
def test_any_bytes_are_read_without_an_exception(ram_path: Path, raw: bytes, head: bool) -> None:
    path = ram_path / "a.journal"
    start = BINARY_MAGIC if head else b""
    path.write_bytes(start + raw)
    contents(path)
    assert valid_end(path) <= len(start) + len(raw)


def line(fields: bytes) -> bytes:
    """A line of a journal with its checksum, written by hand; `fields` is a JSON object without its first brace."""
    rest = b"," + fields + b"\n"
    return b'{"crc":"%08x"' % zlib.crc32(rest) + rest


def test_nesting_that_overflows_the_stack_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    deep = b'"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    path.write_bytes(line(b'"a":1}') + line(deep) + line(b'"a":2}'))
    assert contents(path) == [{"a": 1}, {"a": 2}]
    assert journal.damage(path) == [len(line(b'"a":1}'))]


def test_a_journal_is_lines_of_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    entries = [{"kind": "tags", "values": {"a": "two\nlines, ä"}}, {}, {"kind": "close"}]
    write(path, entries)
    lines = path.read_text(encoding="ascii").splitlines()
    assert [json.loads(text).pop("crc") for text in lines] == [text[8:16] for text in lines]
    assert [{k: v for k, v in json.loads(text).items() if k != "crc"} for text in lines] == entries
    assert path.read_bytes().splitlines(keepends=True)[2] == line(b'"kind":"close"}')


@pytest.mark.parametrize("last", [b"", b'{"crc":"', line(b'"a":2}')[:-1], b"\n", line(b'"a":2}').upper()])
def test_a_last_line_that_is_not_whole_is_cut_off(tmp_path: Path, last: bytes) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(line(b'"a":1}') + last)
    assert contents(path) == [{"a": 1}]
    assert valid_end(path) == len(line(b'"a":1}'))
    Journal(path).close()
    assert path.read_bytes() == line(b'"a":1}')


def test_an_entry_that_is_too_large_is_refused_and_the_journal_goes_on(tmp_path: Path) -> None:
    book = Journal(tmp_path / "a.journal")
    with pytest.raises(ValueError, match="at most"):
        book.append({"a": 1}, {"a": "x" * journal.MAX_LINE})
    fitting = {"a": "x" * (journal.MAX_LINE - len(line(b'"a":""}')))}
    book.append(fitting)
    book.append({"a": 2})
    assert contents(book.path) == [fitting, {"a": 2}]


def test_a_group_that_the_disk_refuses_is_taken_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Journal(tmp_path / "a.journal")
    book.append({"a": 1})
    real, calls = os.pwrite, iter([3, None])

    def refusing(file: int, data: bytes, offset: int) -> int:
        size = next(calls)
        if size is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:size], offset)

    monkeypatch.setattr(os, "pwrite", refusing)
    with pytest.raises(OSError, match="No space"):
        book.append({"b": 1}, {"c": 1})
    monkeypatch.setattr(os, "pwrite", real)
    book.append({"d": 1})
    assert contents(book.path) == [{"a": 1}, {"d": 1}]


def test_one_writer_only_and_its_death_frees_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    book = Journal(path)
    with pytest.raises(OSError):
        Journal(path)
    with journal.abandoned(path) as free:
        assert not free
    book.close()
    with journal.abandoned(path) as free:
        assert free
    with journal.abandoned(tmp_path / "none.journal") as free:
        assert not free


def test_five_thousand_mutations_of_a_journal(ram_path: Path) -> None:
    """Any damage: a clean recovery, and what comes back is a beginning of what was written."""
    rng = random.Random(7)
    entries = [{"kind": "metrics", "key": f"k{n}", "values": {"loss": n / 7}, "text": "ä" * n} for n in range(12)]
    path = ram_path / "a.journal"
    ends = write(path, entries)
    whole = path.read_bytes()
    for _ in range(5000):
        raw = bytearray(whole)
        first = len(raw)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(raw))
            first = min(first, place)
            kind = rng.randrange(4)
            if kind == 0:
                raw[place] ^= rng.randint(1, 255)
            elif kind == 1:
                del raw[place : place + rng.randint(1, 40)]
            elif kind == 2:
                raw[place:place] = rng.randbytes(rng.randint(1, 40))
            else:
                del raw[place:]
            if not raw:
                break
        path.write_bytes(raw)
        found = contents(path)
        sure = sum(end <= first for end in ends)
        assert found[:sure] == entries[:sure]
        assert all(entry in entries for entry in found)


def test_what_json_can_say_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    entry = {"nan": float("inf"), "surrogate": "\udcff", "deep": json.loads("[" * 50 + "]" * 50)}
    write(path, [entry])
    assert contents(path) == [entry]
