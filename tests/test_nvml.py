"""What NVML is asked, with boards that are not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import nvml


class Board:
    """NVML of a machine with one GPU, which is cut in two parts."""

    PARTS = ("MIG-aaaa", "MIG-bbbb")
    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = 0

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return ["GPU-whole"][index]

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:  # noqa: N802
        if name not in (*self.PARTS, "GPU-whole"):
            raise RuntimeError("not found")
        return name

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:  # noqa: N802
        return dict.fromkeys(self.PARTS, "GPU-whole")[handle]

    def nvmlDeviceGetIndex(self, handle: str) -> int:  # noqa: N802
        return ["GPU-whole"].index(handle)

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(total=(80 if handle == "GPU-whole" else 40) * 2**30, used=0)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [("GPU-whole", 80)]),
        ("MIG-bbbb", [("MIG-bbbb", 40)]),
        ("MIG-bbbb,MIG-aaaa", [("MIG-bbbb", 40), ("MIG-aaaa", 40)]),
        ("MIG-cccc,MIG-aaaa", []),
        ("GPU-who", [("GPU-whole", 80)]),
    ],
)
def test_parts_of_a_gpu_are_found_by_name(
    visible: str | None, expected: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "_library", Board)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [(gpu.uuid, gpu.memory_mib / 1024) for gpu in nvml.gpus()] == expected
    assert all(gpu.temperature is None and gpu.index == 0 for gpu in nvml.gpus())
    assert nvml.handle_of("aaaa") == nvml.handle_of("MIG-aaaa") == "MIG-aaaa"
    assert nvml.handle_of("whole") == "GPU-whole" and nvml.handle_of("nobody") is None


class Supported(Board):
    """The same machine with a driver that tells what the whole board uses."""

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: str) -> int:  # noqa: N802
        return 1_500

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=7, usedGpuMemory=3 * 2**20), SimpleNamespace(pid=8, usedGpuMemory=None)]


def test_energy_and_memory_are_in_joules_and_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_library", Supported)
    assert nvml.energy_joules("GPU-whole") == 1.5
    assert nvml.process_memory_mib("GPU-whole", 7) == 3.0
    assert nvml.process_memory_mib("GPU-whole", 8) is None, "a driver that does not tell it says None"
    assert nvml.process_memory_mib("GPU-whole", 9) is None
    assert nvml.gpus()[0].tenants == (7, 8)


@pytest.mark.parametrize("library", [lambda: None, Board])
def test_what_cannot_be_measured_is_absent(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver, and with a board that does not support it."""
    monkeypatch.setattr(nvml, "_library", library)
    assert nvml.energy_joules("GPU-whole") is None
    assert nvml.process_memory_mib("GPU-whole", 7) is None
    if library is not Board:
        assert nvml.gpus() == [] and nvml.handle_of("whole") is None
