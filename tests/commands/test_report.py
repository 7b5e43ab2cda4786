"""`ablate report`: from the store to files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.mlflow_store import MlflowStore
from tests.support.ablate import Result, ablate_in_process
from tests.support.commands import TARGET, assert_refused


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


def test_figures_are_files_and_the_command_is_on_the_page(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    uri = f"sqlite:///{finished[0]}/mlruns/mlflow.db"
    words = ("report", "quickstart", "--tracking-uri", uri, "--out", "there", "--figures")
    assert ablate_in_process(*words, cwd=tmp_path).code == 0
    assert {"forest.svg", "forest.png", "forest.pdf"} <= {path.name for path in (tmp_path / "there/figures").iterdir()}
    document = json.loads((tmp_path / "there" / "report.json").read_text())["conditions"]
    assert (
        document["reproduce"].startswith("ablate ")
        and document["reproduce"] in (tmp_path / "there" / "methods.md").read_text()
    ), "what was typed"
    assert all(sizes["test images"] > 0 and sizes["classes"] >= 10 for sizes in document["data"].values())


def test_the_store_gets_the_files_where_that_is_asked_for(written: tuple[Path, Result, list[Path]]) -> None:
    folder, *_ = written
    artifacts = folder / "mlruns" / "artifacts"
    assert not list(artifacts.rglob("report/report.*")), "a report reads"
    logged = ablate_in_process("report", "quickstart", "--out", "there", "--margin", "0.2", "--log", cwd=folder)
    assert logged.code == 0, logged.err


def test_json_is_the_written_document(written: tuple[Path, Result, list[Path]]) -> None:
    folder, *_ = written
    document = ablate_in_process("report", "quickstart", "--json", "--margin", "0.2", cwd=folder).json()
    assert document["study"] == "quickstart"
    assert document["options"]["target_accuracy"] == float(TARGET), "the grid's"
    assert "seconds_to_target" in {row["response"] for row in document["effects"]}
    assert any("the target accuracy 0.05" in note for note in document["notes"])
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
        (("--target-accuracy", "1.1"), ("--target-accuracy", "0<x<=1")),
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


def test_faster_per_step_and_slower_to_the_target_is_found_in_a_store_of_another_program(
    migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    """Curves that MLflow's client wrote: with ga an epoch takes 0.8 of the time, and twice as many are needed."""
    uri = migrated_store(tmp_path / "mlruns" / "mlflow.db")
    store = MlflowStore(uri, "planted", tmp_path / "mlruns" / "artifacts")
    store.connect()
    for block, ga in product(range(4), (False, True)):
        slow = 1 + 0.01 * block + 0.005 * (block * ga % 3)
        tags = {"ablate.kind": "run", "ablate.block": str(block), "ablate.position": str(int(ga))}
        run_id = store.create_run(f"{block}{ga}", tags, name="", start_time=1000 * block)
        points = [("time/train_seconds", 10 * slow * (0.8 if ga else 1.0), 99, 0)]
        for epoch in range(1, 11):
            needed = 99 if ga and block == 2 else 8 if ga else 4
            points.append(("val/accuracy", 0.9 if epoch >= needed else 0.5, epoch, epoch))
            points.append(("train/epoch_seconds", slow * (0.8 if ga else 1.0), epoch, epoch))
        params = {"model": "m", "dataset": "d", "techniques": "ga" if ga else "baseline", "ga": "on" if ga else "off"}
        store.log(run_id, points, params)
        store.end(run_id, "FINISHED", 1000 * block + 100)
    result = ablate_in_process("report", "planted", "--target-accuracy", "0.9", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "  ga on m / d: faster per step, slower to the target (0.80" in result.out
    assert "m / d: 1 of 8 runs missed the target accuracy 0.9; times to it are restricted to 8." in result.out
    table = (tmp_path / "mlruns/reports/planted/effects.csv").read_text()
    assert "m,d,seconds_to_target,ga,main,1.6" in table
