"""A measured trial: it ends when its probe says, after whole windows, and never reads the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.design.records import End, Job, Metrics, Record
from pipeline.design.spec import Probe, Recipe, RunSpec, content_digest
from pipeline.training import worker
from pipeline.training.data import inputs
from pipeline.training.meter import Meter
from pipeline.training.stop_rule import StopRule


def spec(probe: Probe | None, **recipe: Any) -> RunSpec:
    fields = {"batch_size": 32, "max_train_samples": 96, "max_test_samples": 50, "image_size": 16, **recipe}
    return RunSpec(model="test_resnet", dataset="digits", seed=3, recipe=Recipe(**fields), probe=probe)


def run(found: RunSpec, data_dir: Path, work_dir: Path) -> list[Record]:
    work_dir.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    worker.run_job(Job(spec=found, data_dir=str(data_dir), work_dir=str(work_dir)), records.append)
    last = records[-1]
    assert isinstance(last, End) and last.outcome == "finished", last
    return records


def summary(records: list[Record]) -> dict[str, float]:
    return {k: v for r in records if isinstance(r, Metrics) and r.step is None for k, v in r.values.items()}


def test_a_run_without_a_probe_keeps_its_digest() -> None:
    plain = RunSpec(model="m", dataset="d")
    head = ["m", "d", [], 0, 0, "cpu", "", Recipe().digest]
    assert plain.digest == content_digest(head), "digests of earlier versions stay valid"
    assert spec(Probe(max_windows=3)).digest != spec(None).digest != spec(Probe(max_windows=4)).digest


@pytest.mark.parametrize("fields", [{"interval": 0.01}, {"target_accuracy": 0.5}, {"read_test": True}])
def test_a_probe_without_an_end_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Probe(**fields)


class Forbidden:
    """A test set that nobody may touch."""

    def __getattribute__(self, name: str) -> Any:
        if name == "close":
            return lambda: None
        raise AssertionError(f"the test set was touched: {name}")


def test_a_trial_never_reads_the_test_set(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = inputs.build_inputs

    def guarded(*arguments: Any) -> inputs.Inputs:
        found = built(*arguments)
        return inputs.Inputs(found.num_classes, found.class_names, found.train, found.validation, Forbidden())

    monkeypatch.setattr(worker.inputs, "build_inputs", guarded)
    values = summary(run(spec(Probe(validate_epochs=True)), digits_dir, tmp_path / "trial"))
    assert "throughput/images_per_second" in values and not any(name.startswith("test/") for name in values)
    assert not (tmp_path / "trial" / "confusion.png").exists()
    full: list[Record] = []
    (tmp_path / "full").mkdir()
    worker.run_job(Job(spec=spec(None), data_dir=str(digits_dir), work_dir=str(tmp_path / "full")), full.append)
    assert isinstance(full[-1], End) and full[-1].outcome == "failed", "the guard must catch a run that reads it"


def test_a_window_limit_stops_inside_an_epoch(digits_dir: Path, tmp_path: Path) -> None:
    records = run(spec(Probe(max_windows=2), epochs=3, accumulation_steps=2, batch_size=16), digits_dir, tmp_path)
    assert summary(records)["updates/count"] == 2
    epochs = [record for record in records if isinstance(record, Metrics) and record.step is not None]
    assert [record.step for record in epochs] == [1] and "val/accuracy" not in epochs[0].values


def test_a_budget_of_samples_is_a_whole_number_of_windows(digits_dir: Path, tmp_path: Path) -> None:
    records = run(spec(Probe(max_samples=130, validate_epochs=True), schedule="onecycle"), digits_dir, tmp_path)
    assert summary(records)["updates/count"] == 5  # 96 samples are 3 windows of 32; 130 is reached by the fifth
    steps = [(r.step, "val/accuracy" in r.values) for r in records if isinstance(r, Metrics) and r.step is not None]
    assert steps == [(1, True), (2, True)]


def test_the_interval_ends_a_trial_beyond_the_epochs_of_the_recipe(digits_dir: Path, tmp_path: Path) -> None:
    probe = Probe(interval=0.9, max_seconds=20)
    records = run(spec(probe, epochs=1, max_train_samples=64, schedule="onecycle"), digits_dir, tmp_path)
    values = summary(records)
    assert values["updates/count"] > 2 and 2 * values["throughput/interval_half_width"] < 0.9
    assert values["time/train_seconds"] < 20


def test_the_target_ends_a_trial_and_an_unreached_one_has_no_time(digits_dir: Path, tmp_path: Path) -> None:
    reached = Probe(target_accuracy=0.01, validate_epochs=True)
    values = summary(run(spec(reached, epochs=4), digits_dir, tmp_path / "a"))
    assert values["updates/count"] == 3 and values["time/target_seconds"] == values["time/train_seconds"]
    never = Probe(target_accuracy=1.0, validate_epochs=True)
    values = summary(run(spec(never, epochs=1, learning_rate=1e-9), digits_dir, tmp_path / "b"))
    assert "time/target_seconds" not in values


class Clock(Meter):
    """A meter that is told its windows."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.count = seconds, 0

    @property
    def elapsed(self) -> float:
        return self.seconds * self.count

    def steady(self) -> Any:
        return np.full(self.count, self.seconds), np.full(self.count, 8.0), 0


@given(st.integers(1, 40), st.integers(1, 500), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_a_sample_budget_is_met_by_the_first_window_that_can(windows: int, budget: int, size: int) -> None:
    rule = StopRule(Recipe(), Probe(max_samples=budget), windows * size)
    seen = 0
    for _ in range(rule.epochs * windows):
        seen += size
        if rule.stops_after_window(size, Clock(0.01)):
            break
    assert seen - size < budget <= seen


def test_seconds_end_a_trial_at_the_first_window_past_them() -> None:
    rule, clock = StopRule(Recipe(), Probe(max_seconds=1.0), 100), Clock(0.3)
    for count in range(1, 10):
        clock.count = count
        if rule.stops_after_window(8, clock):
            break
    assert clock.count == 4
