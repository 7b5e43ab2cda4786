"""The allocator's figures, asked of the right device; on a CPU there is nothing to ask."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.device_memory import DeviceMemory

FIGURES = {
    "allocated": "memory_allocated",
    "peak_allocated": "max_memory_allocated",
    "peak_reserved": "max_memory_reserved",
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_figure_is_that_of_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, function in enumerate(FIGURES.values()):
        monkeypatch.setattr(torch.cuda, function, lambda device, number=number: 100 * device.index + number)
    expected = 100 * 3 + list(FIGURES).index(name)
    assert getattr(DeviceMemory(torch.device("cuda", 3)), name)() == expected
    assert getattr(DeviceMemory(torch.device("cpu")), name)() == 0


def test_memory_is_given_back_when_the_device_has_done_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(f"wait {device}"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append(f"reset {device}"))
    for device in ("cpu", "cuda:1"):
        memory = DeviceMemory(torch.device(device))
        memory.release_unused()
        memory.reset_peaks()
    assert calls == ["wait cuda:1", "empty", "reset cuda:1"]
