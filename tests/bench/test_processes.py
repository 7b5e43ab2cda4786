"""Calls in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bench.processes import FreshProcesses
from pipeline.errors import InputError, OutsideError


def process_id(text: str) -> int:
    print(text, flush=True)
    return os.getpid()


def refuses() -> None:
    raise InputError("model: 'x' is not allowed")


def breaks() -> None:
    raise ValueError("first line\nsecond line")


def dies() -> None:
    print("last words", flush=True)
    os._exit(9)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[FreshProcesses]:
    with FreshProcesses(tmp_path / "log", preload=False) as made:
        yield made


def test_every_call_has_a_process_that_nothing_has_run_in(processes: FreshProcesses, tmp_path: Path) -> None:
    found = {processes.call(process_id, "chatter"), processes.call(process_id, "chatter"), os.getpid()}
    assert len(found) == 3
    assert (tmp_path / "log").read_text() == "chatter\n" * 2, "what they print is no output of the command"


def test_errors_are_one_line(processes: FreshProcesses) -> None:
    with pytest.raises(InputError, match="model: 'x' is not allowed"):
        processes.call(refuses)
    with pytest.raises(OutsideError, match=r"^benchmark process: ValueError: first line$"):
        processes.call(breaks)


def test_a_process_that_dies_is_told_with_its_last_words(processes: FreshProcesses) -> None:
    with pytest.raises(OutsideError, match=r"died .*: last words"):
        processes.call(dies)
