"""Training from inputs to records: reproducibility, what each time contains, accuracy, divergence."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.design import plan
from pipeline.design import study as studies
from pipeline.design.records import Metrics
from pipeline.design.spec import Probe
from pipeline.training import trainer, warmup
from pipeline.training.data.inputs import EvalInput
from pipeline.training.step import plan_windows
from tests.support.training import Wrapped, end_of, per_epoch, reproducible, run_in_process, small_spec, summary


@pytest.mark.parametrize("pipeline", ["gather", "loader", "device"])
def test_two_runs_of_a_spec_give_equal_metrics(pipeline: str, digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=2, augmentation="crop_flip", label_smoothing=0.1, input_pipeline=pipeline, num_workers=0)
    first, second = (run_in_process(spec, digits_dir, tmp_path / name) for name in ("a", "b"))
    assert end_of(first).outcome == end_of(second).outcome == "finished"
    assert reproducible(summary(first)) == reproducible(summary(second))
    epochs = [{k: reproducible(v) for k, v in per_epoch(records).items()} for records in (first, second)]
    assert epochs[0] == epochs[1] and set(epochs[0]) == {1, 2}
    other = run_in_process(spec.model_copy(update={"seed": 4}), digits_dir, tmp_path / "c")
    assert reproducible(summary(other)) != reproducible(summary(first))


class Slow(Wrapped):
    def __iter__(self) -> Iterator[Any]:
        time.sleep(1.0)
        return iter(self.inner)


def check_disjoint(values: dict[str, float], elsewhere: float = 0.0) -> None:
    """The times of a run and what took seconds elsewhere are parts of the whole: nothing is counted twice.

    A sum instead of a limit for each, which a loaded machine would exceed.
    """
    parts = [values.get(f"time/{name}_seconds", 0.0) for name in ("setup", "warmup", "compile", "train", "eval")]
    assert sum(parts) + elsewhere <= values["time/total_seconds"] + 0.02, "two clocks"


def test_sleeping_in_evaluation_is_no_training_time(digits_dir: Path, tmp_path: Path, wrap_inputs: Any) -> None:
    wrap_inputs(lambda data: replace(data, validation=Slow(data.validation), test=Slow(data.test)))
    values = summary(run_in_process(small_spec(epochs=2), digits_dir, tmp_path))
    assert values["time/eval_seconds"] >= 3.0, "two validations and one test"
    check_disjoint(values)
    images = 2 * 96 - 32 * values["throughput/warmup_windows"]
    assert images / values["throughput/images_per_second"] <= values["time/train_seconds"]


def test_evaluation_tries_no_algorithms(digits_dir: Path, tmp_path: Path, wrap_inputs: Any) -> None:
    """CuDNN's search pays over many steps of one size; one evaluation has one or two of a size."""
    seen: list[tuple[str, bool]] = []

    class Watched:
        def __init__(self, data: Any, part: str) -> None:
            self._data, self._part = data, part

        def __getattr__(self, name: str) -> Any:
            return getattr(self._data, name)

        def __iter__(self) -> Any:
            seen.append((self._part, torch.backends.cudnn.benchmark))
            return iter(self._data)

        def epoch(self, *arguments: Any) -> Any:
            seen.append(("train", torch.backends.cudnn.benchmark))
            return self._data.epoch(*arguments)

    def watched(data: Any) -> Any:
        return replace(data, **{part: Watched(getattr(data, part), part) for part in ("train", "validation", "test")})

    wrap_inputs(watched)
    run_in_process(small_spec(epochs=2), digits_dir, tmp_path)
    assert {part for part, _ in seen} == {"train", "validation", "test"}
    assert all(searches == (part == "train") for part, searches in seen), seen


def test_a_slow_reader_of_records_is_no_training_time(digits_dir: Path, tmp_path: Path) -> None:
    slept: list[float] = []

    def watch(record: Any) -> None:
        if isinstance(record, Metrics):
            began = time.perf_counter()
            time.sleep(1.0)
            slept.append(time.perf_counter() - began)

    values = summary(run_in_process(small_spec(epochs=2), digits_dir, tmp_path, watch=watch))
    assert len(slept) == 4, "two epochs, the trainer's summary, and the worker's, which has the times"
    check_disjoint(values, elsewhere=sum(slept[:3]))


def test_the_test_set_is_read_once_at_the_end(digits_dir: Path, tmp_path: Path, wrap_inputs: Any) -> None:
    reads: list[str] = []

    class Counted(Wrapped):
        def __init__(self, inner: EvalInput, name: str) -> None:
            super().__init__(inner)
            self.name = name

        def __iter__(self) -> Iterator[Any]:
            reads.append(self.name)
            return iter(self.inner)

    wrap_inputs(
        lambda data: replace(data, validation=Counted(data.validation, "validation"), test=Counted(data.test, "test"))
    )
    run_in_process(small_spec(epochs=3), digits_dir, tmp_path)
    assert reads == ["validation"] * 3 + ["test"]


def test_compilation_is_timed_apart(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowOnce(nn.Module):
        def __init__(self, plain: nn.Module) -> None:
            super().__init__()
            self.plain = plain
            self.slept = False

        def forward(self, images: Tensor) -> Any:
            if not self.slept:
                self.slept = True
                time.sleep(1.0)
            return self.plain(images)

    plain = summary(run_in_process(small_spec(), digits_dir, tmp_path / "plain"))
    monkeypatch.setattr(warmup.torch, "compile", lambda model, **_: SlowOnce(model))
    values = summary(run_in_process(small_spec(compile="default"), digits_dir, tmp_path / "compiled"))
    assert values["time/compile_seconds"] >= 1.0
    check_disjoint(values)
    assert "time/compile_seconds" not in plain
    assert reproducible(values) == reproducible(plain), "the warm-up changed nothing that training sees"


def test_skipped_fp16_updates_are_counted(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules: list[Any] = []
    original = trainer.build_schedule

    def build(*args: Any) -> Any:
        schedules.append(original(*args))
        return schedules[-1]

    monkeypatch.setattr(trainer, "build_schedule", build)
    spec = small_spec(
        epochs=2,
        precision="fp16",
        scaler_init_scale=2.0**18,
        max_train_samples=64,
        max_test_samples=20,
        batch_size=4,
        accumulation_steps=2,
        schedule="cosine",
    )
    records = run_in_process(spec, digits_dir, tmp_path)
    assert end_of(records).outcome == "finished"
    values = summary(records)
    skipped = values["amp/skipped_steps"]
    assert 0 < skipped < 16
    assert values["updates/count"] == 16 - skipped == schedules[0].last_epoch
    assert values["amp/final_scale"] == 2.0 ** (18 - skipped)


QUICKSTART = {
    run.spec.model: run.spec
    for run in plan.build_plan(studies.load_study("quickstart"), "cpu").cells
    if run.spec.dataset == "digits" and run.spec.label == "baseline"
}


@pytest.mark.parametrize(("model", "least"), [("test_resnet", 0.9), ("test_efficientnet", 0.9), ("test_vit", 0.75)])
def test_accuracy_of_the_quickstart_baselines(model: str, least: float, digits_dir: Path, tmp_path: Path) -> None:
    records = run_in_process(QUICKSTART[model], digits_dir, tmp_path)
    values = summary(records)
    print(model, values["test/accuracy"], values["time/train_seconds"])
    assert values["test/accuracy"] >= least
    losses = [epoch["train/loss"] for epoch in per_epoch(records).values()]
    assert losses[-1] < losses[0]
    windows = plan_windows(1347 - 135, QUICKSTART[model].recipe.batch_size, 1)
    assert values["updates/count"] == len(windows) * QUICKSTART[model].recipe.epochs


def test_a_diverging_loss_names_epoch_and_step(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = trainer.optimizer_step

    def poisoned(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return original(*args) * (float("nan") if calls == 5 else 1.0)  # 3 windows an epoch

    monkeypatch.setattr(trainer, "optimizer_step", poisoned)
    end = end_of(records := run_in_process(small_spec(epochs=3), digits_dir, tmp_path))
    assert (end.outcome, end.error) == ("failed", "loss is nan in epoch 2, step 2 of 3")
    assert set(per_epoch(records)) == {1} and summary(records) == {}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_rate_that_destroys_the_model_fails_the_run(precision: str, digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(
        "test_vit",
        epochs=4,
        patch_size=8,
        optimizer="sgd",
        learning_rate=1e30,
        precision=precision,
        batch_size=16,
        max_train_samples=32,
    )
    end = end_of(run_in_process(spec, digits_dir, tmp_path))
    assert end.outcome == "failed" and end.error is not None and "epoch" in end.error
    assert "loss is" in end.error or "skipped" in end.error


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, r"validation loss is (nan|inf) after epoch 1"),
        ({"validation_fraction": 0.0}, r"weights are not finite after epoch 1|test loss is (nan|inf) after epoch 1"),
        ({"eval_every": 2, "epochs": 1, "accumulation_steps": 2}, r"(nan|inf|not finite).* after epoch 1"),
    ],
)
def test_a_last_update_that_ruins_the_model_fails_the_run(
    model: str, recipe: dict[str, Any], said: str, digits_dir: Path, tmp_path: Path
) -> None:
    """The loss of the only window is finite: it comes before the update."""
    ruin = {"optimizer": "sgd", "learning_rate": 1e30, "momentum": 0.0, "schedule": "constant", "weight_decay": 0.0}
    spec = small_spec(model, **{"epochs": 1, "batch_size": 96, **ruin, **recipe})
    records = run_in_process(spec, digits_dir, tmp_path)
    end = end_of(records)
    assert end.outcome == "failed" and re.search(said, str(end.error)), end
    assert math.isfinite(per_epoch(records)[1]["train/loss"]), "what was measured is kept"
    assert not [name for name in summary(records) if name.startswith("test/")]


def test_a_ruined_trial_fails_though_it_reads_no_evaluation(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainer.optimizer_step

    def ruining(learner: Any, *args: Any) -> Tensor:
        loss = original(learner, *args)
        next(learner.model.parameters()).data.view(-1)[0] = float("inf")
        return loss

    monkeypatch.setattr(trainer, "optimizer_step", ruining)
    trial = small_spec().model_copy(update={"probe": Probe(max_windows=1)})
    end = end_of(run_in_process(trial, digits_dir, tmp_path))
    assert end.outcome == "failed" and "weights are not finite after epoch 1 (" in str(end.error)


def test_test_outputs_that_are_no_numbers_fail_the_run_and_keep_its_times(
    digits_dir: Path, tmp_path: Path, wrap_inputs: Any
) -> None:
    class Poisoned(Wrapped):
        def __iter__(self) -> Iterator[Any]:
            return ((images * float("nan"), labels) for images, labels in self.inner)

    wrap_inputs(lambda data: replace(data, test=Poisoned(data.test)))
    spec = small_spec(dataset="digits100", max_train_samples=200, max_test_samples=100)
    records = run_in_process(spec, digits_dir, tmp_path)
    end = end_of(records)
    assert (end.outcome, end.error) == ("failed", "test loss is nan after epoch 1")
    assert summary(records)["time/train_seconds"] > 0 and "val/loss" in per_epoch(records)[1]
