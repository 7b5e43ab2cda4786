"""The tests' own house: one way to run `ablate`, one clean environment, read from the tests' sources."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.ablate import Result, ablate_in_process, ended, environment, run_ablate, start_ablate

TESTS = Path(__file__).parent
SOURCES = {path.relative_to(TESTS).as_posix(): path.read_text() for path in sorted(TESTS.rglob("*.py"))}
RUNNER = "support/ablate.py"
ELSEWHERE = {name: text for name, text in SOURCES.items() if name not in (RUNNER, "test_support.py")}


def matching(pattern: str) -> list[str]:
    return [name for name, text in ELSEWHERE.items() if re.search(pattern, text)]


def test_nobody_else_runs_the_program() -> None:
    assert re.search('"-m",\\s*"pipeline"', SOURCES[RUNNER])
    assert matching("""["']-m["'],\\s*["']pipeline["']""") == []
    assert matching(r"\bpipeline\.cli import (main|program)|\bcli\.(main|program)\(|CliRunner") == []


def test_nobody_else_makes_the_environment_clean() -> None:
    assert '"ABLATE_", "MLFLOW_"' in SOURCES[RUNNER]
    assert matching(r"""startswith\(\(["']ABLATE_""") == []


def test_a_process_has_the_clean_environment_and_what_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABLATE_SEEDS", "0")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert "ABLATE_SEEDS" not in environment() and environment(ABLATE_SEEDS="2")["ABLATE_SEEDS"] == "2"
    assert environment()["PYTHONPATH"] == f"{TESTS.parent}{os.pathsep}elsewhere"
    words = ("grid", "--study", "quickstart", "--device", "cpu", "--dry-run", "--json")
    assert len(run_ablate(*words, cwd=tmp_path, env={"ABLATE_SEEDS": "2"}).json()["cells"]) == 96
    refused = ablate_in_process(*words, cwd=tmp_path)
    assert refused.code == 2 and "--seeds" in refused.line, "in this process the test's variables apply"


def test_a_command_in_this_process_changes_nothing_of_it(tmp_path: Path) -> None:
    before, folder = dict(os.environ), Path.cwd()
    assert ablate_in_process("--version", cwd=tmp_path, data_dir=tmp_path, env={"X": "1"}).code == 0
    assert (dict(os.environ), Path.cwd()) == (before, folder)


def test_a_command_that_hangs_fails_the_test(tmp_path: Path) -> None:
    process = start_ablate("--help", cwd=tmp_path)
    with pytest.raises(AssertionError, match="no end within 0"):
        ended(process, timeout=0)
    assert process.returncode is not None


def test_a_document_of_a_command_that_failed_is_none() -> None:
    assert Result(1, "{}", "").json(1) == {}
    with pytest.raises(AssertionError, match="exit code 1"):
        Result(1, "{}", "why").json()
    with pytest.raises(AssertionError):
        _ = Result(0, "", "one\ntwo\n").line
