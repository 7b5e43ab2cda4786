"""Blocks, gates, and measuring until effects are precise."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient

from pipeline.design.study import load_study
from tests.support.grids import FinishedGrid

TINY = ["--models", "test_resnet", "--datasets", "digits", "--set", "epochs=1", "--set", "max_train_samples=64"]
TINY += ["--set", "max_test_samples=50", "--device", "cpu"]


def test_commands_of_the_audit_name_studies_that_exist() -> None:
    from pipeline.analysis.paper import audit

    for key, _, command, _ in audit.OPEN_QUESTIONS:
        words = command.split()
        assert load_study(words[words.index("--study") + 1]), key


def _runs(grid: FinishedGrid, database: str) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{grid.folder}/{database}")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_until_decided_adds_blocks_up_to_the_limit(grid: FinishedGrid) -> None:
    store = ["--tracking-uri", f"sqlite:///{grid.folder}/precise.db"]
    words = [
        "grid",
        "--study",
        "quickstart",
        *TINY,
        "--techniques",
        "pm",
        "--until-decided",
        "--max-blocks",
        "3",
        *store,
    ]
    done = grid.call(*words, "--interval-width", "0.0001")
    assert done.code == 0, done.out + done.err
    assert "not precise to 0.01 % after 3 blocks (--max-blocks): pm on test_resnet/digits (" in done.out
    children = [run for run in _runs(grid, "precise.db") if run.data.tags["ablate.kind"] == "run"]
    assert sorted(run.data.tags["ablate.block"] for run in children) == ["0", "0", "1", "1", "2", "2"]
    assert sorted(int(run.data.tags["ablate.position"]) for run in children) == list(range(6))
    assert grid.json("status", "quickstart", *store)["finished"] == 6


def test_sentinels_stand_at_both_ends_of_a_block(grid: FinishedGrid) -> None:
    path = grid.folder / "watched.yaml"
    path.write_text("extends: quickstart\nname: quickstart\noverrides: []\nsentinels: true\n")
    words = ["grid", "--study", str(path), *TINY, "--techniques", "pm"]
    words += ["--tracking-uri", f"sqlite:///{grid.folder}/sentinels.db"]
    done = grid.call(*words)
    assert done.code == 0, done.out + done.err
    runs = [run for run in _runs(grid, "sentinels.db") if "ablate.position" in run.data.tags]
    kinds = [run.data.tags["ablate.kind"] for run in sorted(runs, key=lambda r: int(r.data.tags["ablate.position"]))]
    assert kinds == ["sentinel", "run", "run", "sentinel"]
    assert grid.json("status", "quickstart", *words[-2:])["cells"] == 2
