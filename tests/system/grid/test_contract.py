"""A finished grid as outside programs see it: MLflow's client, files, and the JSON of the commands."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.grids import SMALL, FinishedGrid

RECIPE_FIELDS = ["epochs", "batch_size", "accumulation_steps", "precision", "pin_memory", "non_blocking", "num_threads"]
EPOCH_METRICS = [
    "train/loss",
    "train/epoch_seconds",
    "train/images_per_second",
    "val/loss",
    "val/accuracy",
    "val/f1_macro",
]
SUMMARY_METRICS = [
    *(f"test/{name}" for name in ("accuracy", "f1_macro", "precision_macro", "recall_macro")),
    *(f"time/{name}_seconds" for name in ("train", "eval", "setup", "total")),
    "throughput/images_per_second",
    "throughput/updates_per_second",
    "step/p50_ms",
    "step/p95_ms",
    *(f"budget/{name}_seconds" for name in ("data_wait", "h2d", "forward", "backward", "optimizer", "idle")),
    "memory/host_peak_rss_mib",
    "updates/count",
]
ABSENT_ON_CPU = ["memory/gpu_peak_allocated_mib", "memory/gpu_peak_reserved_mib", "energy/gpu_joules"]


@pytest.fixture(scope="module")
def client(grid: FinishedGrid) -> MlflowClient:
    return MlflowClient(tracking_uri=grid.uri)


@pytest.fixture(scope="module")
def everything(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


@pytest.fixture(scope="module")
def children(everything: list[Any]) -> list[Any]:
    return [run for run in everything if run.data.tags["ablate.kind"] == "run"]


@pytest.fixture(scope="module")
def parent(everything: list[Any]) -> Any:
    (found,) = [run for run in everything if run.data.tags["ablate.kind"] == "grid"]
    return found


def test_forty_eight_finished_children_under_one_parent(
    children: list[Any], parent: Any, everything: list[Any]
) -> None:
    assert len(children) == 48
    assert len(everything) == 49
    assert {run.info.status for run in everything} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.data.tags["ablate.command_line"].startswith("ablate grid --study quickstart ")
    assert len({run.data.tags["ablate.digest"] for run in children}) == 48


def test_names_and_on_off_params_say_the_same(children: list[Any]) -> None:
    for run in children:
        params = run.data.params
        model, dataset, techniques, seed = run.info.run_name.split("/")
        assert (params["model"], params["dataset"], params["techniques"]) == (model, dataset, techniques)
        assert seed == f"s{params['seed']}"
        on = [name for name in ("ga", "amp", "pm") if params[name] == "on"]
        assert techniques == ("+".join(on) or "baseline")
        assert {params[name] for name in ("ga", "amp", "pm")} <= {"on", "off"}
        assert params["recipe.accumulation_steps"] == ("2" if "ga" in on else "1")
        assert params["recipe.precision"] == ("bf16" if "amp" in on else "fp32")
        assert params["recipe.pin_memory"] == params["recipe.non_blocking"] == str("pm" in on)
        assert all(f"recipe.{field}" in params for field in RECIPE_FIELDS)
    cells = Counter(tuple(run.info.run_name.split("/")[:3]) for run in children)
    assert len(cells) == 48


def test_every_metric_of_the_contract_that_a_cpu_can_measure(client: MlflowClient, children: list[Any]) -> None:
    for run in children:
        metrics = run.data.metrics
        assert [name for name in (*SUMMARY_METRICS, *EPOCH_METRICS) if name not in metrics] == []
        assert [name for name in ABSENT_ON_CPU if name in metrics] == [], "a made-up number"
        assert ("test/top5_accuracy" in metrics) == (run.data.params["dataset"] == "digits100")
        assert 0 <= metrics["test/accuracy"] <= 1
        assert "amp/final_scale" not in metrics, "bf16 has no scaler"
    one = children[0].info.run_id
    for name in EPOCH_METRICS:
        assert [point.step for point in client.get_metric_history(one, name)] == [1, 2]


def test_updates_are_counted_per_window(children: list[Any]) -> None:
    for run in children:
        # 128 images in micro-batches of 64 or 32, two epochs
        per_epoch = 128 // int(run.data.params["recipe.batch_size"])
        per_epoch //= int(run.data.params["recipe.accumulation_steps"])
        assert run.data.metrics["updates/count"] == 2 * per_epoch


def test_tags_place_every_run_in_the_design(children: list[Any]) -> None:
    assert {run.data.tags["ablate.block"] for run in children} == {"0"}
    assert sorted(int(run.data.tags["ablate.position"]) for run in children) == list(range(48))
    assert {run.data.tags["ablate.outcome"] for run in children} == {"finished"}
    by_start = sorted(children, key=lambda run: run.info.start_time)
    assert [int(run.data.tags["ablate.position"]) for run in by_start] == list(range(48)), "run order is the plan's"
    assert all(run.data.tags["env.torch"] and run.data.tags["env.hostname"] for run in children)


def test_parent_carries_table_and_aggregates(client: MlflowClient, parent: Any) -> None:
    note = parent.data.tags["mlflow.note.content"]
    assert note.count("### ") == 6
    assert note.count("| baseline | 1 |") == 6
    assert note.startswith("## The answer\n\n- ") and "(gradient accumulation" in note
    assert "ablate grid --study quickstart" in note.splitlines()[-2]
    assert parent.data.metrics["cells/finished"] == 48 and parent.data.metrics["cells/failed"] == 0
    assert (
        0 < parent.data.metrics["grid/baseline_accuracy"] < 1 and parent.data.metrics["grid/median_train_seconds"] > 0
    )
    assert not any("heartbeat" in name for name in parent.data.tags if not name.startswith("mlflow."))
    assert parent.data.metrics["time_ratio/baseline"] == 1.0
    assert parent.data.metrics["time_ratio/ga.amp.pm"] > 0
    assert {"plan"} <= {item.path for item in client.list_artifacts(parent.info.run_id)}


def test_confusion_matrix_is_a_figure(client: MlflowClient, children: list[Any]) -> None:
    for run in children[:3]:
        (figure,) = client.list_artifacts(run.info.run_id, "figures")
        assert figure.path == "figures/confusion.png"
        assert figure.file_size and figure.file_size > 2000


def test_paired_cells_had_equal_weights_and_order(children: list[Any]) -> None:
    """`pm` does nothing on a CPU, so its cells must repeat the others' learning to the last bit."""
    losses = {run.info.run_name: run.data.metrics["train/loss"] for run in children}
    pairs = [(name, name.replace("/pm/", "/baseline/")) for name in losses if "/pm/" in name]
    pairs += [(name, name.replace("+pm/", "/")) for name in losses if "+pm/" in name]
    assert len(pairs) == 24
    assert [name for name, other in pairs if losses[name] != losses[other]] == []


def test_output_starts_with_the_study_and_ends_with_tables(grid: FinishedGrid) -> None:
    lines = grid.output.splitlines()
    assert lines[0].startswith("study quickstart: 48 cells")
    assert sum("finished" in line and "[" in line for line in lines) == 48
    assert "48 cells: 48 finished" in grid.output
    assert "ablate ui" in grid.output


def test_status_counts_every_cell(grid: FinishedGrid) -> None:
    found = grid.json("status", "quickstart")
    assert found == {
        "study": "quickstart",
        "cells": 48,
        "finished": 48,
        **dict.fromkeys(("failed", "oom", "timeout", "interrupted", "running", "pending"), 0),
        "failures": [],
        "speed": None,
    }


def test_the_same_call_again_runs_nothing(grid: FinishedGrid) -> None:
    found = grid.json("grid", "--study", "quickstart", "--device", "cpu", *SMALL)
    assert found["finished"] == found["cells"] == 48
    assert len(found["results"]) == 48
    assert all(row["runs"] == 1 and row["seconds"] > 0 for row in found["results"])
    assert grid.json("status", "quickstart")["finished"] == 48


def test_report_of_a_real_grid(grid: FinishedGrid, client: MlflowClient, parent: Any) -> None:
    found = grid.json("report", "quickstart", "--log")
    folder = grid.folder / "mlruns" / "reports" / "quickstart"
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "runs.csv",
        "effects.csv",
        "tables.tex",
        "methods.md",
    }
    terms = {(row["model"], row["response"], row["term"], row["kind"]) for row in found["effects"]}
    assert ("test_vit", "train_seconds", "amp", "main") in terms
    assert {row["unit"] for row in found["effects"]} == {"ratio", "points"}
    assert not any(row["response"].startswith("gpu") for row in found["effects"])
    logged = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/report.html" in logged


def test_compare_with_itself_finds_no_difference(grid: FinishedGrid) -> None:
    done = grid.call("compare", "quickstart", "quickstart")
    assert done.code == 0, done.err
    assert "test_vit" in done.out


def test_doctor_and_sync(grid: FinishedGrid) -> None:
    checks = {check["name"]: check for check in grid.json("doctor")["checks"]}
    assert {"python", "torch", "cuda", "disk", "data", "tracking store"} <= set(checks)
    assert checks["tracking store"]["status"] == "ok"
    assert all(check["status"] in ("ok", "warn", "fail") for check in checks.values())
    assert grid.json("sync") == {"journals": 0, "entries": 0, "problems": []}


def test_a_single_run_has_a_parent_of_its_own(grid: FinishedGrid) -> None:
    words = ["run", "--study", "quickstart", "--model", "test_resnet", "--dataset", "digits", "--techniques", "ga,pm"]
    found = grid.json(*words, "--device", "cpu", "--tracking-uri", f"sqlite:///{grid.folder}/single.db", *SMALL)
    assert found["finished"] == found["cells"] == 1
    single = MlflowClient(tracking_uri=f"sqlite:///{grid.folder}/single.db")
    experiment = single.get_experiment_by_name("quickstart")
    assert experiment is not None
    names = {run.info.run_name for run in single.search_runs([experiment.experiment_id])}
    assert "test_resnet/digits/ga+pm/s101" in names
    assert len(names) == 2
