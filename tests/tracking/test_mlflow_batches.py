"""Batches within MLflow's limits, and one bad value among many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from pipeline.tracking.mlflow_batches import log_in_batches


class Client:
    """Refuses what has `bad` in its name, as MLflow does: the whole batch."""

    def __init__(self, stage: str = "active", error: Any = INVALID_PARAMETER_VALUE) -> None:
        self.stage, self.error = stage, error
        self.batches: list[list[list[Any]]] = []
        self.calls = 0

    def log_batch(self, run_id: str, *batch: list[Any], synchronous: bool) -> None:
        assert run_id == "run" and synchronous
        self.calls += 1
        bad = [item.key for items in batch for item in items if "bad" in item.key]
        if bad or self.stage != "active":
            raise MlflowException(f"refused: {bad}\nmore", error_code=self.error)
        self.batches.append([list(items) for items in batch])

    def get_run(self, _run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage=self.stage))

    @property
    def kept(self) -> set[str]:
        return {item.key for batch in self.batches for items in batch for item in items}


def test_calls_keep_to_the_limits_and_long_values_are_cut() -> None:
    client: Any = Client()
    metrics = [(f"m{number}", 1.0, 1, 0) for number in range(1700)]
    names = {f"n{number}": "x" * 10_000 for number in range(150)}
    assert log_in_batches(client, "run", metrics, names, names) == []
    assert [[len(items) for items in batch] for batch in client.batches] == [
        [800, 100, 100],
        [800, 50, 50],
        [100, 0, 0],
    ]
    first = client.batches[0]
    assert {len(item.value) for item in first[1]} == {6000} and {len(item.value) for item in first[2]} == {8000}


def test_of_a_refused_batch_all_is_kept_but_what_is_bad() -> None:
    client: Any = Client()
    metrics = [("bad" if number == 77 else f"m{number}", 1.0, 1, 0) for number in range(100)]
    problems = log_in_batches(client, "run", metrics, {"p": 1, "bad p": 2}, {"t": 3})
    assert sorted(refusal.why for refusal in problems) == ["refused: ['bad p']", "refused: ['bad']"]
    assert [refusal.values for refusal in problems] == [{"metrics": [["bad", 1.0, 1, 0]]}, {"params": {"bad p": "2"}}]
    assert client.kept == {f"m{number}" for number in range(100) if number != 77} | {"p", "t"}
    assert client.calls < 40, "halved, not one by one"


def test_a_deleted_run_is_not_asked_value_by_value() -> None:
    client: Any = Client(stage="deleted")
    assert len(log_in_batches(client, "run", [(f"m{n}", 1.0, 1, 0) for n in range(50)])) == 1
    assert client.calls == 1


def test_an_error_that_may_pass_is_raised() -> None:
    client: Any = Client(error=INTERNAL_ERROR)
    with pytest.raises(MlflowException, match="refused"):
        log_in_batches(client, "run", [("bad", 1.0, 1, 0)])


def test_nothing_is_no_call() -> None:
    client: Any = Client()
    assert log_in_batches(client, "run") == [] and client.calls == 0
