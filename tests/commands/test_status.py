"""`ablate status`: how far a study is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import ablate_in_process
from tests.support.commands import assert_refused


def test_status_of_a_finished_grid(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    found = ablate_in_process("status", "quickstart", "--json", cwd=place, data_dir=digits_dir)
    assert found.err == ""
    assert found.json() == {
        "study": "quickstart",
        "cells": 2,
        "finished": 2,
        **dict.fromkeys(("failed", "oom", "timeout", "interrupted", "running", "pending"), 0),
        "failures": [],
        "speed": None,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "quickstart"), ("tracking store", "mlruns/mlflow.db", "no such file")),
        (("status", "--tracking-uri", "file:/nowhere"), ("--tracking-uri", "'file:/nowhere'", "sqlite:///FILE")),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate(*arguments), words, tmp_path)


def test_an_unknown_study_is_refused(finished: tuple[Path, dict[str, Any]]) -> None:
    place, _ = finished
    found = ablate_in_process("status", "nosuch", cwd=place)
    assert found.code == 2 and "study 'nosuch': not in the tracking store; allowed: quickstart" in found.line
    assert found.out == ""


def test_in_words(finished: tuple[Path, dict[str, Any]]) -> None:
    found = ablate_in_process("status", "quickstart", cwd=finished[0])
    lines = found.out.splitlines()
    assert found.code == 0 and lines[0] == "study quickstart: 2 cells"
    assert [line.split() for line in lines[1:3]] == [["finished", "2"], ["failed", "0"]] and len(lines) == 8


@pytest.mark.parametrize("command", ["status", "report"])
def test_without_a_name_it_is_the_study_that_was_worked_on_last(
    command: str, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    words = ("--json",) if command == "status" else ("--json", "--out", str(tmp_path))
    uri = f"sqlite:///{finished[0]}/mlruns/mlflow.db"
    found = ablate_in_process(command, *words, "--tracking-uri", uri, cwd=finished[0])
    assert found.line == "study quickstart: the one that was worked on last"
    assert found.json()["study"] == "quickstart"
    other = ablate_in_process(command, "--tracking-uri", uri, cwd=finished[0], env={"ABLATE_NAME": "mine"})
    assert other.code == 2 and "study 'mine'" in other.line
