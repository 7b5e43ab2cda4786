"""What is in a time and what is not; compilation leaves no trace; scores are scikit-learn's definitions."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import meter as metering
from pipeline import warmup
from pipeline.meter import Meter
from pipeline.metrics import confusion, epoch_scores, final_scores
from pipeline.precision import Precision
from pipeline.spec import Recipe

CPU = torch.device("cpu")


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(metering, "time", SimpleNamespace(perf_counter=made))
    return made


def train(meter: Meter, clock: Clock, windows: list[float], images: int = 10) -> float:
    meter.start_training()
    for seconds in windows:
        for phase, share in (("data_wait", 0.1), ("forward", 0.4), ("backward", 0.3), ("optimizer", 0.1)):
            clock.now += share * seconds
            meter.clock.mark(phase)
        clock.now += 0.1 * seconds  # time of no phase
        meter.window(images)
    return meter.end_training()


def test_steady_state_discards_the_warm_up(clock: Clock) -> None:
    meter = Meter(CPU, warmup_windows=2)
    assert train(meter, clock, [10.0, 10.0, 1.0, 1.0, 2.0]) == pytest.approx(24.0)
    values = meter.summary()
    assert values["time/train_seconds"] == pytest.approx(24.0), "training time has them"
    assert values["throughput/images_per_second"] == pytest.approx(30 / 4)
    assert values["throughput/updates_per_second"] == pytest.approx(3 / 4)
    assert values["throughput/warmup_windows"] == 2
    assert values["step/p50_ms"] == pytest.approx(1000) and values["step/p95_ms"] == pytest.approx(1900)


def test_a_run_shorter_than_the_warm_up_keeps_its_last_window(clock: Clock) -> None:
    meter = Meter(CPU, warmup_windows=10)
    train(meter, clock, [5.0, 2.0])
    values = meter.summary()
    assert values["throughput/images_per_second"] == pytest.approx(5.0)
    assert values["throughput/warmup_windows"] == 1


def test_budget_adds_up(clock: Clock) -> None:
    meter = Meter(CPU, warmup_windows=0)
    train(meter, clock, [1.0, 2.0])
    clock.now += 50.0  # between the epochs
    train(meter, clock, [1.0])
    values = meter.summary()
    budget = {name: value for name, value in values.items() if name.startswith("budget/")}
    assert set(budget) == {
        f"budget/{phase}_seconds" for phase in ("data_wait", "h2d", "forward", "backward", "optimizer", "idle")
    }
    assert all(value >= 0 for value in budget.values())
    assert sum(budget.values()) == pytest.approx(values["time/train_seconds"]) == pytest.approx(4.0)
    assert budget["budget/forward_seconds"] == pytest.approx(1.6)
    # what passes between two windows is waiting for data; what passes after an epoch's last mark is idle
    assert budget["budget/data_wait_seconds"] == pytest.approx(0.5)
    assert budget["budget/idle_seconds"] == pytest.approx(0.3)


def test_evaluation_is_timed_apart(clock: Clock) -> None:
    meter = Meter(CPU, warmup_windows=0)
    train(meter, clock, [1.0])

    def evaluate() -> str:
        clock.now += 7.0
        return "done"

    assert meter.timed_evaluation(evaluate) == "done"
    values = meter.summary()
    assert values["time/train_seconds"] == pytest.approx(1.0) and values["time/eval_seconds"] == pytest.approx(7.0)


def test_what_a_cpu_cannot_measure_is_absent() -> None:
    meter = Meter(CPU, warmup_windows=0)
    meter.start_training()
    meter.window(1)
    meter.end_training()
    values = meter.summary()
    assert not [name for name in values if "gpu" in name or "energy" in name]
    assert "time/compile_seconds" not in values and values["memory/host_peak_rss_mib"] > 50


def test_host_peak_is_of_training_alone() -> None:
    ballast = np.ones(300 * 2**20 // 8)
    del ballast
    meter = Meter(CPU, warmup_windows=0)
    meter.start_training()
    meter.window(1)
    meter.end_training()
    low = meter.summary()["memory/host_peak_rss_mib"]
    meter.start_training()
    ballast = np.ones(200 * 2**20 // 8)
    del ballast
    meter.window(1)
    meter.end_training()
    assert meter.summary()["memory/host_peak_rss_mib"] - low > 150


def test_state_continues_in_another_meter(clock: Clock) -> None:
    first = Meter(CPU, warmup_windows=1)
    train(first, clock, [3.0, 1.0])
    second = Meter(CPU, warmup_windows=1)
    second.load_state_dict(first.state_dict())
    train(second, clock, [1.0])
    whole = Meter(CPU, warmup_windows=1)
    train(whole, clock, [3.0, 1.0])
    train(whole, clock, [1.0])
    resumed, expected = second.summary(), whole.summary()
    for name in expected:
        if not name.startswith("memory/"):
            assert resumed[name] == pytest.approx(expected[name]), name


class Compiled(nn.Module):
    """Stands for a compiled module: slow at its first call of each shape."""

    def __init__(self, plain: nn.Module, seconds: float) -> None:
        super().__init__()
        self.plain = plain
        self.seconds = seconds
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> Any:
        if tuple(images.shape) not in self.shapes:
            self.shapes.append(tuple(images.shape))
            time.sleep(self.seconds)
        return self.plain(images)


def noisy_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def check_warm_up(model: nn.Module, plain: nn.Module, recipe: Recipe) -> float:
    """Warms up and checks that nothing is left of it; returns its seconds."""
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    random = torch.get_rng_state()
    seconds = warmup.warm_up(model, plain, recipe, Precision(recipe, CPU), [4, 2, 4], CPU)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert set(plain.state_dict()) == set(before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in plain.parameters())
    return seconds


def test_warm_up_leaves_no_trace() -> None:
    plain = noisy_model()
    model = Compiled(plain, 0.05)
    seconds = check_warm_up(model, plain, Recipe(compile="default", image_size=8))
    assert model.shapes == [(4, 3, 8, 8), (2, 3, 8, 8)], "each size of the plan once, the largest first"
    assert seconds > 0.1


def test_nothing_compiled_needs_no_warm_up() -> None:
    plain = noisy_model()
    assert check_warm_up(Compiled(plain, 0.0), plain, Recipe(image_size=8)) == 0.0
    assert warmup.compiled(plain, Recipe()) is plain


@pytest.mark.slow
def test_real_compilation_leaves_no_trace() -> None:
    plain = noisy_model()
    recipe = Recipe(compile="default", image_size=8)
    model = warmup.compiled(plain, recipe)
    seconds = check_warm_up(model, plain, recipe)
    began = time.perf_counter()
    model(torch.zeros(4, 3, 8, 8))
    assert time.perf_counter() - began < seconds / 5, "compiled before, not now"


def test_scores_of_a_known_case() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = np.array([0, 1, 1, 1, 2, 0])
    found = epoch_scores(labels, predictions)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1_macro"] == pytest.approx(np.mean([0.5, 0.8, 2 / 3]))
    final = final_scores(labels, np.eye(3, dtype=np.float32)[predictions])
    assert final["precision_macro"] == pytest.approx(np.mean([1 / 2, 2 / 3, 1.0]))
    assert final["recall_macro"] == pytest.approx(np.mean([0.5, 1.0, 0.5]))
    assert "top5_accuracy" not in final
    assert confusion(labels, predictions, 4).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_top_5_of_100_classes() -> None:
    logits = np.zeros((2, 100), dtype=np.float32)
    logits[:, :10] = np.arange(10, 0, -1)
    final = final_scores(np.array([4, 5]), logits)
    assert final["top5_accuracy"] == 0.5 and final["accuracy"] == 0.0
