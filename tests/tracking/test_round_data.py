"""Rounds as the store has them: which rows count, and what a study's frame is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import pytest

from pipeline.tracking import round_data
from pipeline.tracking.round_data import rates_under, round_frame, youngest_rounds
from pipeline.tracking.study_data import read_study_data


def cell(run_id: str, digest: str, outcome: str = "finished", parent: str = "speed", start: int = 5) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "status": "FINISHED",
        "start_time": start,
        "tags.ablate.kind": "turns",
        "tags.ablate.digest": digest,
        "tags.ablate.outcome": outcome,
        "tags.mlflow.parentRunId": parent,
        "params.model": "m",
        "params.dataset": "d",
        "metrics.turns/recipe_images": 1000.0,
        "metrics.throughput/images_per_second": 1.0,
    }


def parent(run_id: str, start: int, kind: str = "speed") -> dict[str, Any]:
    return {"run_id": run_id, "start_time": start, "status": "FINISHED", "tags.ablate.kind": kind}


class Rounds:
    """A store: rows, and rates of each run's rounds."""

    def __init__(self, rows: list[dict[str, Any]], rates: dict[str, dict[int, float]]) -> None:
        self.rows, self.rates = rows, rates

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def history(self, run_ids: Iterable[str], keys: Sequence[str]) -> pd.DataFrame:
        points = [
            (run, key, step, 0, value)
            for run in run_ids
            for key in keys
            for step, rate in self.rates.get(run, {}).items()
            for value in [rate if key == "round/images_per_second" else 9.0 - step]
        ]
        return pd.DataFrame(points, columns=["run_id", "key", "step", "timestamp", "value"])

    def tags_of(self, run_id: str) -> dict[str, str]:
        return {"ablate.techniques": "ga"} if run_id == "speed" else {}


SOURCE = Rounds(
    [
        parent("speed", 2),
        parent("old", 1),
        cell("a1", "a", "interrupted", start=3),
        cell("a2", "a", start=4),
        cell("b", "b"),
        cell("gone", "c", "failed"),
        cell("elsewhere", "a", parent="old"),
    ],
    {
        "a1": {1: 10.0, 2: 20.0},
        "a2": {3: 40.0},
        "b": {1: 5.0, 2: math.nan, 3: math.inf, 4: -1.0, 5: 0.0},
        "gone": {1: 7.0},
        "elsewhere": {1: 99.0},
    },
)


def test_rows_of_one_cell_go_on_with_each_other_and_lost_cells_do_not_count() -> None:
    assert rates_under(SOURCE, SOURCE.frame(), "speed") == {"a": {1: 10.0, 2: 20.0, 3: 40.0}, "b": {1: 5.0}}


def test_a_frame_has_a_row_for_each_cell_and_round() -> None:
    frame = round_frame(SOURCE, SOURCE.frame(), "speed")
    found = frame[["tags.ablate.digest", "tags.ablate.block", "metrics.time/train_seconds", "tags.ablate.position"]]
    assert found.to_numpy().tolist() == [
        ["a", "m/d/1", 100.0, "8.0"],
        ["a", "m/d/2", 50.0, "7.0"],
        ["a", "m/d/3", 25.0, "6.0"],
        ["b", "m/d/1", 200.0, "8.0"],
    ]
    assert set(frame["tags.ablate.kind"]) == {"run"}
    assert frame["run_id"].tolist() == ["a1", "a1", "a2", "b"], "of each round its own row tells how it trained"


def test_of_each_round_its_own_row_tells_how_it_trained() -> None:
    """A cell that is started again finds the compiler's cache warm."""
    source = Rounds([dict(row) for row in SOURCE.rows], SOURCE.rates)
    for row in source.rows:
        if row["run_id"] in ("a1", "a2"):
            row["tags.ablate.engagement"] = {"a1": "cold", "a2": "warm"}[row["run_id"]]
            row["metrics.time/compile_seconds"] = {"a1": 30.0, "a2": 3.0}[row["run_id"]]
    frame = round_frame(source, source.frame(), "speed")
    mine = frame[frame["tags.ablate.digest"].eq("a")]
    assert mine["tags.ablate.engagement"].tolist() == ["cold", "cold", "warm"]
    assert mine["metrics.time/compile_seconds"].tolist() == [30.0, 30.0, 3.0]


def test_of_very_many_rounds_some_are_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_data, "MOST_BLOCKS", 4)
    rates = {run: {number: float(number) for number in range(1, 11)} for run in ("a2", "b")}
    del rates["b"][10]
    source = Rounds(SOURCE.rows, rates)
    frame = round_frame(source, source.frame(), "speed")
    mine = frame[frame["tags.ablate.digest"].eq("a")]
    assert mine["tags.ablate.block"].tolist() == ["m/d/1", "m/d/4", "m/d/7", "m/d/10"]
    assert mine["metrics.throughput/images_per_second"].tolist() == pytest.approx(
        [6 ** (1 / 3), 120 ** (1 / 3), 504 ** (1 / 3), 10.0]
    )
    assert set(frame["metrics.speed/rounds"]) == {10} and len(frame) == 7


@pytest.mark.parametrize("rows", [[], [{"run_id": "x"}], [parent("speed", 1)], [cell("b", "b") | {"run_id": "none"}]])
def test_where_there_is_nothing_the_frame_is_empty(rows: list[dict[str, Any]]) -> None:
    source = Rounds(rows, {})
    assert round_frame(source, source.frame(), "speed").empty


def test_a_call_without_rounds_hides_none() -> None:
    """The youngest one was ended in its set-up: what an earlier one has measured is still there."""
    rows = [*SOURCE.rows, parent("empty", 9), cell("lost", "a", "interrupted", parent="empty", start=9)]
    frame, found = youngest_rounds(source := Rounds(rows, SOURCE.rates), source.frame())
    assert found == "speed" and len(frame) == 4
    nothing, none = youngest_rounds(source := Rounds([parent("empty", 9)], {}), source.frame())
    assert nothing.empty and none == ""


def test_rounds_of_another_question_are_not_taken() -> None:
    """They may be younger, and in the same experiment."""
    mine = {"tags.ablate.study": "s", "tags.ablate.factors": "ga"}
    rows = [row | mine if row["run_id"] == "speed" else row for row in SOURCE.rows]
    other = {"tags.ablate.study": "s", "tags.ablate.factors": "pm"}
    rows += [
        parent("other", 9) | other,
        cell("o", "o", parent="other"),
        parent("theirs", 8) | {"tags.ablate.study": "t"},
    ]
    rows += [cell("t", "t", parent="theirs")]
    source = Rounds(rows, {**SOURCE.rates, "o": {1: 2.0}, "t": {1: 2.0}})
    assert youngest_rounds(source, source.frame(), "s", "ga")[1] == "speed"
    assert (
        youngest_rounds(source, source.frame(), "s", "pm")[1] == youngest_rounds(source, source.frame())[1] == "other"
    )
    assert youngest_rounds(source, source.frame(), "t")[1] == "theirs"
    last = [row | {"tags.ablate.opened": "99"} if row["run_id"] == "speed" else row for row in rows]
    assert youngest_rounds(Rounds(last, source.rates), pd.DataFrame(last))[1] == "speed", "a call has gone on with it"


def test_a_study_has_its_youngest_rounds_beside_its_grid_and_alone() -> None:
    grid = [
        parent("grid", 9, "grid") | {"tags.ablate.command": "grid"},
        {**cell("run", "z", parent="grid"), "tags.ablate.kind": "run"},
    ]
    both, of_grid = read_study_data(Rounds(SOURCE.rows + grid, SOURCE.rates), "s", curves=False)
    assert of_grid == "grid" and both.runs["run_id"].tolist() == ["run"] and len(both.rounds) == 4
    alone, of_rounds = read_study_data(SOURCE, "s", curves=False)
    assert of_rounds == "speed" and alone.runs is alone.rounds and alone.techniques == ("ga",)
