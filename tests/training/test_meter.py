"""What is in a time and what is not; compilation leaves no trace; scores are scikit-learn's definitions."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pipeline.design.spec import Recipe
from pipeline.training import clocks, cuda_graphs, warmup
from pipeline.training import meter as metering
from pipeline.training.clocks import CudaClock
from pipeline.training.cuda_graphs import CapturedGraphs, capture
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.meter import Meter
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import Precision
from pipeline.training.scores import confusion, epoch_scores, final_scores
from pipeline.training.step import Learner
from tests.support.training import ClosureRecorder, end_of, run_in_process, small_spec

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
    for module in (metering, clocks):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=made))
    return made


def train(meter: Meter, clock: Clock, windows: list[float], images: int = 10) -> float:
    meter.start_training()
    for seconds in windows:
        for phase, share in (("data_wait", 0.1), ("forward", 0.4), ("backward", 0.3), ("optimizer", 0.1)):
            clock.now += share * seconds
            meter.clock.end_phase(phase)
        clock.now += 0.1 * seconds  # time of no phase
        meter.end_window(images)
    return meter.end_training()


def test_steady_state_discards_the_warm_up(clock: Clock) -> None:
    meter = Meter(CPU, 2, DeviceMemory(CPU))
    assert train(meter, clock, [10.0, 10.0, 1.0, 1.0, 2.0]) == pytest.approx(24.0)
    values = meter.summary()
    assert values["time/train_seconds"] == pytest.approx(24.0), "training time has them"
    assert values["throughput/images_per_second"] == pytest.approx(30 / 4)
    assert values["throughput/updates_per_second"] == pytest.approx(3 / 4)
    assert values["throughput/warmup_windows"] == 2
    assert values["step/p50_ms"] == pytest.approx(1000) and values["step/p95_ms"] == pytest.approx(1900)


def test_a_run_shorter_than_the_warm_up_keeps_its_last_window(clock: Clock) -> None:
    meter = Meter(CPU, 10, DeviceMemory(CPU))
    train(meter, clock, [5.0, 2.0])
    values = meter.summary()
    assert values["throughput/images_per_second"] == pytest.approx(5.0)
    assert values["throughput/warmup_windows"] == 1


def test_budget_adds_up(clock: Clock) -> None:
    meter = Meter(CPU, 0, DeviceMemory(CPU))
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
    meter = Meter(CPU, 0, DeviceMemory(CPU))
    train(meter, clock, [1.0])

    def evaluate() -> str:
        clock.now += 7.0
        return "done"

    assert meter.timed_evaluation(evaluate) == "done"
    values = meter.summary()
    assert values["time/train_seconds"] == pytest.approx(1.0) and values["time/eval_seconds"] == pytest.approx(7.0)


def test_what_a_cpu_cannot_measure_is_absent() -> None:
    meter = Meter(CPU, 0, DeviceMemory(CPU))
    meter.start_training()
    meter.end_window(1)
    meter.end_training()
    values = meter.summary()
    assert not [name for name in values if "gpu" in name or "energy" in name]
    assert "time/compile_seconds" not in values and values["memory/host_peak_rss_mib"] > 50


def test_host_peak_is_of_training_alone() -> None:
    ballast = np.ones(300 * 2**20 // 8)
    del ballast
    meter = Meter(CPU, 0, DeviceMemory(CPU))
    meter.start_training()
    meter.end_window(1)
    meter.end_training()
    low = meter.summary()["memory/host_peak_rss_mib"]
    meter.start_training()
    ballast = np.ones(200 * 2**20 // 8)
    del ballast
    meter.end_window(1)
    meter.end_training()
    assert meter.summary()["memory/host_peak_rss_mib"] - low > 150


def test_state_continues_in_another_meter(clock: Clock) -> None:
    first = Meter(CPU, 1, DeviceMemory(CPU))
    train(first, clock, [3.0, 1.0])
    second = Meter(CPU, 1, DeviceMemory(CPU))
    second.load_state_dict(first.state_dict())
    train(second, clock, [1.0])
    whole = Meter(CPU, 1, DeviceMemory(CPU))
    train(whole, clock, [3.0, 1.0])
    train(whole, clock, [1.0])
    resumed, expected = second.summary(), whole.summary()
    for name in expected:
        if not name.startswith("memory/"):
            assert resumed[name] == pytest.approx(expected[name]), name


class Allocator(DeviceMemory):
    """Stands for a GPU's: what a search for algorithms takes is kept until it is given back."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.calls: list[str] = []
        self.now, self.peak, self.grow = 100, 100, 0

    def allocated(self) -> int:
        return self.now

    def peak_allocated(self) -> int:
        return self.peak

    def reset_peaks(self) -> None:
        self.calls.append("reset")
        self.peak = self.now

    def release_unused(self) -> None:
        self.calls.append("release")


class Evaluated(Allocator):
    """Evaluation takes more than training; the allocator keeps it."""

    def peak_reserved(self) -> int:
        return self.peak


def test_reserved_memory_is_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering.nvml, "process_memory_mib", lambda *_: None)
    memory = Evaluated()
    meter = Meter(CPU, 0, memory)
    meter._cuda = True  # its allocator is the one above; events are not needed here
    monkeypatch.setattr(meter, "synchronize", lambda: None)
    for peak in (300, 280):
        meter.start_training()
        memory.peak = max(memory.peak, peak * 2**20)
        meter.end_window(1)
        meter.end_training()
        meter.timed_evaluation(lambda: setattr(memory, "now", 900 * 2**20))  # kept as cache, from now on
    values = meter.summary()
    assert values["memory/gpu_peak_reserved_mib"] == 300


class FakeEvent:
    """An event of a device whose clock tests turn; `device` is when it gets there."""

    clock: Clock

    def __init__(self, device: float) -> None:
        self.device = device

    def query(self) -> bool:
        return self.clock.now >= self.device

    def elapsed_time(self, later: FakeEvent) -> float:
        return (later.device - self.device) * 1e3


class Device:
    """Executes what the host launches, in order, each phase for so long."""

    def __init__(self, clock: Clock) -> None:
        FakeEvent.clock = self._clock = clock
        self._free = 0.0

    def launch(self, host: float, work: float, kernels: int = 100) -> None:
        """Launches kernels one after the other: each begins when it is launched and the one before has ended."""
        for _ in range(kernels):
            self._clock.now += host / kernels
            self._free = max(self._free, self._clock.now) + work / kernels

    def event(self) -> FakeEvent:
        return FakeEvent(max(self._free, self._clock.now))


@pytest.mark.parametrize(
    ("host", "work", "queue", "expected"),
    [
        (0.010, 0.002, 0.0, 1.0),  # small kernels: the device waits for each launch
        (0.002, 0.010, 0.0, 0.0),  # heavy ones: the host runs ahead
        (0.002, 0.010, 0.1, 0.0),
        (0.010, 0.010, 0.1, 0.0),  # a full queue holds the host back to the device's pace
    ],
)
def test_a_launch_bound_step_is_told_from_a_compute_bound_one(
    host: float, work: float, queue: float, expected: float, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(clock)
    device._free = clock.now + queue  # work that is queued already
    made = CudaClock()
    monkeypatch.setattr(made, "_event", device.event)
    made.start_epoch()
    for _ in range(40):
        for phase in ("data_wait", "h2d", "data_wait"):
            made.end_phase(phase)
        for phase in ("forward", "backward", "optimizer"):
            device.launch(host, work)
            made.end_phase(phase)
        made.end_window()
    clock.now = device._free + 1  # the device is synchronised
    made.end_epoch()
    assert made.launched_seconds > 0
    assert made.launch_bound_seconds / made.launched_seconds == pytest.approx(expected, abs=0.01)
    assert sum(made.durations) == pytest.approx(sum(made.seconds.values()), rel=0.05)


def test_waiting_for_the_device_is_not_launching(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wait nothing is queued, but heavy kernels take longer than their launches."""
    device = Device(clock)
    made = CudaClock()
    monkeypatch.setattr(made, "_event", device.event)
    made.start_epoch()
    for _ in range(40):
        clock.now = max(clock.now, device._free)  # a gradient scaler has read something
        for phase in ("forward", "backward"):
            device.launch(0.002, 0.02)
            made.end_phase(phase)
        clock.now = max(clock.now, device._free)
        device.launch(0.001, 0.002)
        made.end_phase("optimizer")
        made.end_window()
    clock.now = device._free + 1
    made.end_epoch()
    assert made.launch_bound_seconds / made.launched_seconds < 0.1


@pytest.mark.parametrize(
    ("epochs", "seconds", "known"), [(1, 1.9, False), (1, 2.1, True), (20, 0.1, False), (20, 0.5, True)]
)
def test_energy_of_too_short_a_run_is_absent(
    epochs: int, seconds: float, known: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML's counter moves every 20 to 100 ms: an epoch of 50 ms has used nothing, or twice what it has used."""
    monkeypatch.setattr(metering.nvml, "energy_joules", lambda _handle: 300.0 * (clock.now // 0.1) * 0.1)
    meter = Meter(CPU, 0, DeviceMemory(CPU))
    meter._energy_known = True
    for _ in range(epochs):
        train(meter, clock, [seconds])
    values = meter.summary()
    assert ("energy/gpu_joules" in values) is known
    if known:
        assert values["energy/gpu_joules"] == pytest.approx(300.0 * epochs * seconds, rel=0.1)


class Slow(nn.Module):
    """Slow at its first call of each shape, as a first use of libraries and a compiler are."""

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


def learner_of(model: nn.Module, plain: nn.Module, recipe: Recipe) -> Learner:
    optimizer = build_optimizer(plain, "test_resnet", recipe)
    precision = Precision(recipe, CPU)
    precision.watch(optimizer)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return Learner(model, nn.CrossEntropyLoss(), optimizer, schedule, precision, None)


def check_warm_up(model: nn.Module, plain: nn.Module, recipe: Recipe, memory: Any = None) -> warmup.WarmUp:
    """Warms up and checks that nothing is left of it."""
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    random = torch.get_rng_state()
    learner = learner_of(model, plain, recipe)
    made = warmup.warm_up(learner, plain, recipe, [4, 2, 4], CPU, memory or DeviceMemory(CPU))
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert set(plain.state_dict()) == set(before)
    assert torch.equal(torch.get_rng_state(), random)
    kept = [parameter.grad for parameter in plain.parameters()]
    if learner.precision.keeps_gradients:
        assert all(grad is not None and not grad.any() for grad in kept)
    else:
        assert kept == [None] * len(kept)
    assert not any(state.get("step") for state in learner.optimizer.state.values())
    assert learner.precision.outcomes() == [] and learner.schedule.last_epoch == 0
    return made


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16", "fused_optimizer": True, "optimizer": "sgd"},
        {"channels_last": True, "accumulation_steps": 2},
        {"cuda_graph": True},
    ],
)
def test_every_cell_warms_up_before_its_clock_starts(recipe: dict[str, Any]) -> None:
    """The first use of libraries, algorithms and allocator is no part of training, whatever the recipe."""
    plain = noisy_model()
    model = Slow(plain, 0.05)
    made = check_warm_up(model, plain, Recipe(image_size=8, **recipe))
    assert model.shapes == [(4, 3, 8, 8), (2, 3, 8, 8)], "each size of the plan, the largest first"
    assert made.seconds > 0.1 and made.compile_seconds == 0.0 and made.hidden_bytes == 0


def test_the_compiler_is_timed_apart() -> None:
    plain = noisy_model()
    made = check_warm_up(Slow(plain, 0.05), plain, Recipe(compile="default", image_size=8))
    assert made.compile_seconds > 0.1 > made.seconds
    assert warmup.compile_model(plain, Recipe()) is plain


def test_what_the_search_for_algorithms_took_is_given_back() -> None:
    memory = Allocator()
    plain = noisy_model()
    check_warm_up(plain, plain, Recipe(image_size=8), memory)
    assert memory.calls[-1] == "release", "after the last of the first passes"


@pytest.mark.parametrize(
    ("mode", "shown", "hidden"),
    [
        ("reduce-overhead", (700, 50), 650),  # recorded, then replayed: only the gradients are seen
        ("max-autotune", (700, 50), 650),
        ("reduce-overhead", (700, 700), 0),  # the compiler has passed its graphs over, as it may: all is seen
        ("default", (700, 50), 0),
    ],
)
def test_memory_of_the_compilers_own_graphs_is_counted(mode: str, shown: tuple[int, int], hidden: int) -> None:
    """Once they are replayed, the allocator does not see their activations any more."""
    memory, plain = Allocator(), noisy_model()
    calls = 0

    class Recording(nn.Module):
        """The second call of a size is recorded, the third is replayed."""

        def forward(self, images: torch.Tensor) -> Any:
            nonlocal calls
            needs = (5000, *shown)[calls % 3]  # the first call's workspaces are not the graph's
            calls += 1
            memory.peak = max(memory.peak, memory.now + needs)
            return plain(images)

    assert check_warm_up(Recording(), plain, Recipe(compile=mode, image_size=8), memory).hidden_bytes == hidden


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_update_is_rehearsed_without_a_trace(
    precision: str, fused: bool, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[type] = []
    original = warmup.build_optimizer

    def spy(*arguments: Any) -> torch.optim.Optimizer:
        made = original(*arguments)
        made.register_step_post_hook(lambda found, *_: steps.append(type(found)))
        return made

    monkeypatch.setattr(warmup, "build_optimizer", spy)
    random = torch.get_rng_state()
    recipe = Recipe(precision=precision, fused_optimizer=fused, optimizer=optimizer, clip_norm=1.0)
    assert warmup.rehearse_update("test_resnet", recipe, CPU) > 0
    assert [kind.__name__.lower() for kind in steps] == [optimizer] and torch.equal(torch.get_rng_state(), random)


@pytest.mark.slow
def test_real_compilation_leaves_no_trace() -> None:
    plain = noisy_model()
    recipe = Recipe(compile="default", image_size=8)
    model = warmup.compile_model(plain, recipe)
    seconds = check_warm_up(model, plain, recipe).compile_seconds
    began = time.perf_counter()
    model(torch.zeros(4, 3, 8, 8))
    assert time.perf_counter() - began < seconds / 5, "compiled before, not now"


@pytest.mark.slow
def test_a_recorded_model_is_compiled_once(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-up, the recording and training call it in one and the same context: dynamo would go by a difference."""
    made: list[CapturedGraphs] = []

    def recorder(_device: torch.device) -> Any:
        return ClosureRecorder()

    def spy(*arguments: Any) -> CapturedGraphs:
        made.append(capture(*arguments))
        return made[-1]

    monkeypatch.setattr(cuda_graphs, "CudaRecorder", recorder)
    monkeypatch.setattr(cuda_graphs, "capture", spy)
    torch._dynamo.reset()
    counters.clear()
    recipe = {"compile": "default", "cuda_graph": True, "precision": "bf16"}
    end = end_of(run_in_process(small_spec("test_vit", patch_size=8, **recipe), digits_dir, tmp_path))
    assert end.outcome == "finished", end.error
    # micro-batches of 32: one size, one graph, one compilation
    assert made and counters["stats"]["unique_graphs"] == 1


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
