"""Which runs of a store are a study's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.errors import InputError
from pipeline.tracking import study_data
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.study_data import StudyData, client_of, finished_runs, load_study_data, read_study_data


def row(
    run_id: str, kind: str, parent: str = "", *, start: int = 0, status: str = "FINISHED", **more: Any
) -> dict[str, Any]:
    tags = {"tags.ablate.kind": kind, "tags.mlflow.parentRunId": parent or None}
    return {"run_id": run_id, "status": status, "start_time": start, **tags, **more}


COMMAND = "tags.ablate.command"
ROWS = [
    row("old", "grid", start=1, **{COMMAND: "grid"}),
    row("young", "grid", start=2, **{COMMAND: "grid"}),
    row("empty", "grid", start=3, **{COMMAND: "grid"}),
    row("single", "grid", start=4, **{COMMAND: "run"}),
    row("tuning", "tune", start=5),
    row("a", "run", "old"),
    row("b", "run", "young", **{"metrics.train/loss": 1.0}),
    row("c", "sentinel", "young", status="FAILED"),
    row("d", "run", "young", status="RUNNING"),
    row("e", "run", "single"),
    row("f", "run", "tuning"),
]


class Source:
    """A store's runs as a table."""

    def __init__(self, rows: list[dict[str, Any]], tags: dict[str, str] | None = None) -> None:
        self.rows = rows
        self.tags = tags or {}
        self.asked: list[tuple[list[str], list[str]]] = []

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def history(self, run_ids: Iterable[str], keys: Sequence[str]) -> pd.DataFrame:
        self.asked.append((list(run_ids), list(keys)))
        return pd.DataFrame()

    def tags_of(self, run_id: str) -> dict[str, str]:
        return {"ablate.techniques": "amp,ga", **self.tags} if run_id == "young" else {}


def picked(rows: list[dict[str, Any]]) -> tuple[list[str], str]:
    runs, parent = finished_runs(pd.DataFrame(rows))
    return runs["run_id"].tolist(), parent


def test_they_are_those_of_the_youngest_grid_that_has_any() -> None:
    assert picked(ROWS) == (["b", "c"], "young")


def test_without_a_grid_single_runs_are_taken_and_trials_never() -> None:
    assert picked([r for r in ROWS if r["run_id"] in ("single", "e", "tuning", "f")]) == (["e"], "single")
    assert picked([r for r in ROWS if r["run_id"] in ("tuning", "f", "young")]) == ([], "")


def test_a_store_of_another_program_has_only_runs() -> None:
    assert picked([{"run_id": "x", "status": "FINISHED"}]) == (["x"], "")
    untied = [{"run_id": "x", "status": "FINISHED", "tags.ablate.kind": "run"}]
    assert picked(untied) == (["x"], "")


def test_a_study_comes_with_its_techniques_and_one_curve() -> None:
    source = Source(ROWS)
    data, parent = read_study_data(source, "named", curves=True)
    assert (data.name, data.techniques, parent) == ("named", ("amp", "ga"), "young")
    assert source.asked == [(["b", "c"], ["train/loss"])], "val/accuracy was not measured"


def test_curves_of_many_runs_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_data, "MAX_CURVE_RUNS", 1)
    source = Source(ROWS)
    read_study_data(source, "named", curves=True)
    assert source.asked[0][0] == []


@pytest.mark.parametrize(
    ("asked", "tag", "target"),
    [
        (0.8, "", 0.8),
        (None, "0.9", 0.9),
        (0.8, "0.9", 0.8),
        (None, "", None),
        (None, "1.5", None),
        (None, "nan", None),
        (None, "high", None),
    ],
)
def test_curves_to_a_target_are_read_of_every_run_where_it_is_asked_for(
    asked: float | None, tag: str, target: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_data, "MAX_CURVE_RUNS", 1)
    source = Source(ROWS, {"ablate.target_accuracy": tag} if tag else None)
    data, _ = read_study_data(source, "named", curves=True, target_accuracy=asked)
    assert data.target_accuracy == target
    keys = ["train/loss", "val/accuracy", "train/epoch_seconds"] if target else ["train/loss"]
    assert source.asked == [(["b", "c"] if target else [], keys)]


def test_without_curves_there_is_no_target() -> None:
    source = Source(ROWS, {"ablate.target_accuracy": "0.9"})
    data, _ = read_study_data(source, "named", curves=False)
    assert data.target_accuracy is None and source.asked[0][0] == []


@pytest.mark.parametrize(
    ("rows", "says"),
    [([], "no runs in the tracking store"), (ROWS[1:2] + ROWS[9:10], "its youngest grid has no runs yet")],
)
def test_a_study_without_runs_is_told(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InputError, match=f"study 'named': {says}"):
        read_study_data(Source(rows), "named", curves=False)


def test_a_local_store_is_read_as_through_the_client(mlflow_store: MlflowStore, tmp_path: Path) -> None:
    store = mlflow_store
    typed = "ablate grid --study study"
    given = {"ablate.kind": "grid", "ablate.command": "grid", "ablate.command_line": typed}
    parent = store.create_run("p", given, name="p", start_time=1)
    tags = {"ablate.kind": "run", "mlflow.parentRunId": parent}
    run_id = store.create_run("r", tags, name="r", start_time=2)
    store.log(run_id, [("train/loss", 2.0, 10, 1), ("train/loss", 1.0, 20, 2)])
    store.end(run_id, "FINISHED", 30)
    data, found = load_study_data("study", store.uri, tmp_path, curves=True)
    assert (data.runs["run_id"].tolist(), found) == ([run_id], parent)
    assert data.history["value"].tolist() == [2.0, 1.0] and data.commands == (typed,)
    client, _ = read_study_data(client_of(store.uri, "study", tmp_path), "study", curves=True)
    pd.testing.assert_frame_equal(client.history, data.history)
    with pytest.raises(InputError, match="no such file"):
        load_study_data("study", f"sqlite:///{tmp_path}/absent.db", tmp_path, curves=False)


def test_a_run_of_an_earlier_version_has_the_recipe_fields_that_came_later() -> None:
    """Else a study that goes on would fall into two, told apart by a field that says the same."""
    rows = [row("old", "run"), row("new", "run", **{"params.recipe.resize": "crop"}), row("foreign", "run")]
    rows[0]["params.recipe.epochs"] = rows[1]["params.recipe.epochs"] = "2"
    data = StudyData("x", pd.DataFrame(rows))
    assert data.runs["params.recipe.resize"].tolist()[:2] == ["crop", "crop"]
    assert data.runs["params.recipe.resize"].isna().tolist() == [False, False, True], "of others nothing is known"
    assert data.runs["params.recipe.skip_unreadable"].tolist()[:2] == ["0", "0"]
    assert list(StudyData("x", pd.DataFrame([row("a", "run")])).runs) == list(row("a", "run"))


@pytest.mark.parametrize("read", [load_study_data, client_of])
def test_a_study_that_was_renamed_in_mlflow_has_its_new_name(
    read: Any, migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    uri = migrated_store(tmp_path / "mlflow.db")
    store = MlflowStore(uri, "before", tmp_path)
    store.connect()
    store.connection.client.create_experiment("of another program")
    store.connection.client.rename_experiment(store.connection.experiment_id, "after")
    arguments = ("before", uri, tmp_path) if read is load_study_data else (uri, "before", tmp_path)
    with pytest.raises(InputError, match=r"study 'before': not in the tracking store; allowed: after$"):
        read(*arguments, **({"curves": False} if read is load_study_data else {}))
