"""`ablate tune` as people run it: real, small trials; what is in MLflow, in Optuna, in files; and bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.design import plan, study
from pipeline.errors import InputError
from pipeline.tracking import study_data
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.status import status_of
from tests.support.ablate import Result, run_ablate

SMALL = [
    *("tune", "--model", "test_resnet", "--dataset", "digits", "--study", "quickstart", "--device", "cpu"),
    *(
        "--batch-sizes",
        "64,128",
        "--accumulation",
        "1,2",
        "--trial-seconds",
        "0.3",
        "--confirm-blocks",
        "2",
        "--top",
        "1",
    ),
]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> tuple[Path, dict[str, Any]]:
    """A finished tuning, started from a notebook: its folder and its document."""
    folder = tmp_path_factory.mktemp("tuned")
    notebook = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return folder, run_ablate(*SMALL, "--json", cwd=folder, data_dir=digits_dir, env=notebook).json()


def runs_of(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_the_document_has_what_the_contract_names(tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, found = tuned
    assert (found["model"], found["dataset"], found["objective"]) == ("test_resnet", "digits", "throughput")
    assert found["trials"] == 4 and found["infeasible"] == 0 and found["blocks"] == 2
    assert set(found["best"]) >= {"batch_size", "accumulation_steps"}
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["verdict"] in ("better", "tie", "worse")
    assert (found["recommended"] == found["best"]) == (found["verdict"] == "better")
    assert (folder / found["study_file"]).is_file()


def test_mlflow_has_a_parent_and_trials_like_cells(tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, found = tuned
    rows = runs_of(folder)
    parents = [run for run in rows if run.data.tags["ablate.kind"] == "tune"]
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    children = [run for run in rows if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == len(rows) - 1
    searched = [run for run in children if run.data.tags["tune.phase"] == "search"]
    confirmed = [run for run in children if run.data.tags["tune.phase"] == "confirm"]
    assert sorted(int(run.data.tags["tune.trial"]) for run in searched) == [0, 1, 2, 3]
    assert len(confirmed) == 2 * (1 + len(found["confirmed"]))
    seeds = [{run.data.params["seed"] for run in phase} for phase in (searched, confirmed)]
    assert not seeds[0] & seeds[1] and len(seeds[1]) == 2
    for run in children:
        assert run.info.status == "FINISHED" and run.data.tags["ablate.outcome"] == "finished"
        assert {"recipe.batch_size", "recipe.accumulation_steps", "model", "dataset"} <= set(run.data.params)
        assert {"throughput/images_per_second", "time/train_seconds", "time/setup_seconds"} <= set(run.data.metrics)
        assert not any(name.startswith("test/") for name in run.data.metrics), "the test set is not read in tuning"
        assert "probe" not in run.data.params
    assert parents[0].data.metrics["tune/trials"] == 4
    assert "mlflow.note.content" in parents[0].data.tags
    logged = {path.name for path in folder.glob("mlruns/artifacts/**/tuning/*")}
    assert {"history.png", "slice.png", "contour.png", Path(found["study_file"]).name} <= logged


def test_the_same_call_again_runs_nothing_and_says_the_same(
    tuned: tuple[Path, dict[str, Any]], digits_dir: Path
) -> None:
    folder, found = tuned
    before = len(runs_of(folder))
    again = run_ablate(*SMALL, "--json", cwd=folder, data_dir=digits_dir)
    assert {k: v for k, v in again.json().items() if k != "parent"} == {k: v for k, v in found.items() if k != "parent"}
    assert len(runs_of(folder)) == before and "started" not in again.err


@pytest.mark.slow
def test_what_fails_after_the_search_is_told_under_the_result(
    tuned: tuple[Path, dict[str, Any]], digits_dir: Path
) -> None:
    folder, found = tuned
    plots = folder / "mlruns" / "tuning" / found["name"]
    plots.rename(plots.with_name("aside"))
    plots.write_text("a file where the plots go")
    try:
        done = run_ablate(*SMALL, cwd=folder, data_dir=digits_dir)
    finally:
        plots.unlink()
        plots.with_name("aside").rename(plots)
    assert done.code == 3 and "could not be kept everywhere: plots: FileExistsError" in done.line
    assert "the recommended recipe as a study" in done.out
    parents = [run for run in runs_of(folder) if run.data.tags["ablate.kind"] == "tune"]
    assert {run.info.status for run in parents} == {"FINISHED"}


def test_the_study_file_is_a_study(tuned: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    folder, found = tuned
    made = study.load_study(str(folder / found["study_file"]))
    recipe = made.recipe_for("test_resnet", "digits")
    assert {name: getattr(recipe, name) for name in found["recommended"]} == found["recommended"]
    assert len(plan.build_plan(made, "cpu").cells) >= 4
    name = Path(found["study_file"]).stem
    done = run_ablate(
        "grid", "--study", name, "--device", "cpu", "--dry-run", "--json", cwd=folder, data_dir=digits_dir
    ).json()
    assert {cell["recipe"]["epochs"] for cell in done["cells"]} == {2}


def test_a_grid_takes_tuned_recipes_once_per_model_and_data_set(
    tuned: tuple[Path, dict[str, Any]], digits_dir: Path
) -> None:
    """What was tuned above has another space than a grid searches: nothing is found, and a dry run runs nothing."""
    folder, _ = tuned
    words = ["grid", "--study", "quickstart", "--models", "test_resnet", "--datasets", "digits", "--device", "cpu"]
    before = len(runs_of(folder))
    done = run_ablate(*words, "--tuned", "--dry-run", "--json", cwd=folder, data_dir=digits_dir)
    assert done.code == 0 and "not tuned yet: test_resnet on digits" in done.err
    assert len(runs_of(folder)) == before


def test_reports_pass_trials_over(tuned: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = tuned
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    with pytest.raises(InputError, match="no runs"):
        study_data.load_study_data("quickstart", uri, folder / "mlruns", curves=False)
    tracker = MlflowStore(uri, "quickstart", folder / "mlruns" / "artifacts")
    assert status_of(tracker, folder / "mlruns")["cells"] == 0


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--objective", "speed"], "speed"),
        (["--model", "all"], "--model"),
        (["--dataset", "digits,digits100"], "--dataset"),
        (["--techniques", "ga"], "'ga'"),
        (["--techniques", "nonsense"], "nonsense"),
        (["--techniques", "channels_last"], "channels_last"),
        (["--technique", "amp"], "--technique"),
        (["--batch-sizes", "12,x"], "--batch-sizes"),
        (["--batch-sizes", "0"], "--batch-sizes"),
        (["--accumulation", "-1"], "--accumulation"),
        (["--effective-batch", "1297"], "--effective-batch"),
        (["--objective", "time"], "--target-accuracy"),
        (["--target-accuracy", "0.5"], "--target-accuracy"),
        (["--budget-samples", "5"], "--budget-samples"),
        (["--trials", "0"], "--trials"),
        (["--storage", "redis://x"], "--storage"),
        (["--storage", "sqlite:///:memory:"], "--storage"),
        (["--name", "../x"], "--name"),
        (["--set", "batch_size=0"], "batch_size"),
        (["--interval-width", "1"], "--interval-width"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    words: list[str], names: str, tmp_path: Path, ablate: Callable[..., Result]
) -> None:
    base = ["tune", "--model", "test_resnet", "--dataset", "digits", "--study", "quickstart", "--device", "cpu"]
    refused = ablate(*base, *words)
    assert refused.code == 2 and names in refused.line
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_the_space(tmp_path: Path, ablate: Callable[..., Result]) -> None:
    found = ablate(*SMALL, "--dry-run", "--json").json()
    assert len(found["configurations"]) == 4
    assert found["baseline"] == {"batch_size": 64, "accumulation_steps": 1} and found["probe"]["read_test"] is False
    assert not list(tmp_path.iterdir())


def test_another_search_of_the_same_name_is_refused(tuned: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    folder, found = tuned
    done = run_ablate(*SMALL, "--name", found["name"], "--seed", "9", cwd=folder, data_dir=digits_dir)
    assert done.code == 2 and "--name" in done.err and done.err.count("\n") == 1
