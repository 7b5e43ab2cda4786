"""What a run costs the controller, without any training: calls of MLflow, journal entries."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import orchestration
from pipeline.design.plan import PlannedRun
from pipeline.design.records import Metrics, Progress
from pipeline.tracking import journal


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A grid of twelve runs that train nothing, on a store of its own."""
    folder = tmp_path_factory.mktemp("orchestration")
    return orchestration.measure_orchestration(12, str(folder)), folder


def test_calls_of_mlflow_per_run(measured: tuple[dict[str, Any], Path]) -> None:
    found = measured[0]
    assert found["runs"] == 12
    # opening (search, create, search, log), claim (3), values (1 to 3), closing (2); the parent's own are spread
    assert 5 < found["mlflow_calls_per_run"] < 18, found["calls"]
    assert 1 <= found["calls"]["create_run"] < 1.2
    assert found["calls"]["log_batch"] < 8
    assert found["seconds_per_run"] > 0 and found["seconds_per_record"] > 0


def test_journal_entries_per_run(measured: tuple[dict[str, Any], Path]) -> None:
    kinds: Counter[str] = Counter()
    for path in (measured[1] / "journal").glob("*.journal"):
        kinds.update(str(entry["kind"]) for entry, _ in journal.read_entries(path))
    # 12 runs: opened, claimed... closed once each; three epochs and one summary; tags; the parent's own are the rest
    assert kinds["open"] == 13 and kinds["close"] == 13
    assert kinds["metrics"] == 12 * (orchestration.EPOCHS + 1) + 1
    assert kinds["tags"] <= 12 + 4


def test_progress_is_never_journaled(tmp_path: Path) -> None:
    from pipeline.tracking.mlflow_store import MlflowStore
    from pipeline.tracking.recorder import OpenRun, Recorder

    book = Recorder(MlflowStore(f"sqlite:///{tmp_path}/x.db", "x", tmp_path), tmp_path)
    run: PlannedRun = orchestration._plan(1).runs[0]
    opened = OpenRun("key", run, tmp_path)
    before = book.outbox.end
    values: dict[str, Any] = {"epoch": 1, "epochs": 1, "update": 1, "updates": 2, "images_per_second": 1.0}
    book.record(opened, Progress(time=0.0, **values))
    assert book.outbox.end == before
    book.record(opened, Metrics(time=0.0, values={"a": 1.0}))
    assert book.outbox.end > before
