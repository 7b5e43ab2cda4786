"""`ablate compare`: the same cells of two studies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.ablate import ablate_in_process
from tests.support.commands import assert_refused


def test_a_study_is_as_fast_as_itself(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    text = ablate_in_process("compare", "quickstart", "quickstart", cwd=folder)
    assert text.code == 0 and text.out.startswith("#") and "quickstart" in text.out
    document = ablate_in_process("compare", "quickstart", "quickstart", "--json", cwd=folder).json()
    assert document


def test_the_second_study_may_be_in_another_store(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Without `--tracking-uri-b` both are in the first one's store."""
    folder, _ = finished
    shutil.copytree(folder / "mlruns", tmp_path / "other")  # the database and its write-ahead log
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    words = ("compare", "quickstart", "quickstart", "--tracking-uri", uri)
    assert ablate_in_process(*words, cwd=tmp_path).code == 0
    assert (
        ablate_in_process(*words, "--tracking-uri-b", f"sqlite:///{tmp_path}/other/mlflow.db", cwd=tmp_path).code == 0
    )
    absent = ablate_in_process(*words, "--tracking-uri-b", "sqlite:///absent.db", cwd=tmp_path)
    assert absent.code == 2 and "absent.db" in absent.line


def test_both_studies_have_to_be_named(ablate: Any, tmp_path: Path) -> None:
    assert_refused(ablate("compare", "quickstart"), ("STUDY_B",), tmp_path)


def test_the_tables_are_files_where_they_are_wanted(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    words = ("compare", "quickstart", "quickstart", "--tracking-uri", f"sqlite:///{finished[0]}/mlruns/mlflow.db")
    done = ablate_in_process(*words, "--out", "there", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "## Conclusion (B against A)" in done.out
    assert done.out.splitlines()[-1].startswith("written: there/compare.md, ")
    files = {path.name: path.read_text() for path in (tmp_path / "there").iterdir()}
    assert set(files) == {"compare.md", "compare.json", "cells.csv", "effects.csv"}
    assert json.loads(files["compare.json"])["a"] == "quickstart" and files["compare.md"] in done.out
    assert files["cells.csv"].startswith("model,dataset,cell,response,a,b,ratio,")
    refused = ablate_in_process(*words, "--out", "/proc/nowhere", cwd=tmp_path)
    assert refused.code == 2 and "--out: '/proc/nowhere'" in refused.line and "a writable folder" in refused.line
