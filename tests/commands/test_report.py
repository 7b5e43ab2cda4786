"""`ablate report`: from the store to files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import Result, ablate_in_process
from tests.support.commands import assert_refused


@pytest.fixture(scope="module")
def written(
    finished: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result, list[Path]]:
    """A copy of the finished grid's folder with a report of it: the folder, what was printed, the files."""
    folder = tmp_path_factory.mktemp("report") / "copy"
    shutil.copytree(finished[0], folder)
    result = ablate_in_process("report", "quickstart", "--out", "there", "--margin", "0.2", cwd=folder)
    return folder, result, sorted((folder / "there").iterdir())


def test_the_files_are_written_where_they_are_wanted(written: tuple[Path, Result, list[Path]]) -> None:
    folder, result, files = written
    assert result.code == 0, result.err
    assert {"report.html", "report.md", "report.json"} <= {path.name for path in files}
    last = result.out.splitlines()[-1]
    assert last == f"written: there/report.html and {len(files) - 1} more files"
    assert not (folder / "mlruns" / "reports").exists(), "not at the default place as well"


def test_json_is_the_written_document(written: tuple[Path, Result, list[Path]]) -> None:
    folder, *_ = written
    document = ablate_in_process("report", "quickstart", "--json", "--margin", "0.2", cwd=folder).json()
    assert document["study"] == "quickstart"
    assert (folder / "mlruns" / "reports" / "quickstart" / "report.json").is_file()


def test_a_folder_that_cannot_be_made_is_one_line(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    result = ablate_in_process("report", "quickstart", "--out", "/proc/nowhere", cwd=folder)
    assert result.code == 2 and "--out: '/proc/nowhere'" in result.line and "a writable folder" in result.line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--margin", "0"), ("--margin", "0<x<1")),
        (("--margin", "1"), ("--margin", "0<x<1")),
        (("--accuracy-margin", "101"), ("--accuracy-margin", "0<x<=100")),
        (("--memory-limit", "0"), ("--memory-limit", "x>0")),
        (("--tracking-uri", "ftp://host"), ("--tracking-uri", "'ftp://host'")),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate("report", "quickstart", *arguments), words, tmp_path)


def test_a_study_without_runs_is_refused(finished: tuple[Path, dict[str, Any]]) -> None:
    result = ablate_in_process("report", "paper", cwd=finished[0])
    assert result.code == 2 and "paper" in result.line
