"""The clocks: what a GPU's events say of windows and phases, with a device whose clock the tests turn."""

from __future__ import annotations

import pytest

from pipeline.training.clocks import CudaClock
from tests.support.training import Clock


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
