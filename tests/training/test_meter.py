"""What is in a time and what is not; compilation leaves no trace; scores are scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.training import meter as metering
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.meter import Meter
from tests.support.training import Allocator, Clock

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(("seconds", "known"), [(1.9, False), (2.1, True)])
def test_energy_of_one_phase_is_known_where_the_counter_can_tell(
    seconds: float, known: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn's: the counter moves every 0.1 s, and 5 % may be wrong."""
    monkeypatch.setattr(metering.nvml, "energy_joules", lambda _handle: 300.0 * clock.now)
    meter = Meter(CPU, 0, DeviceMemory(CPU))
    assert meter.phase_joules is None
    meter._energy_known = True
    train(meter, clock, [seconds])
    assert meter.phase_joules == (pytest.approx(300.0 * seconds) if known else None)
