"""What the NVIDIA management library tells, without torch and without touching CUDA.

Every function answers None or an empty list where there is no driver: a quantity that the machine cannot
measure is absent, never zero.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it (memory in MiB, temperature in Celsius, clocks in MHz)."""

    index: int
    uuid: str
    name: str
    driver: str
    memory_mib: float
    used_mib: float
    temperature: int | None
    sm_clock: int | None
    max_sm_clock: int | None
    throttle_reasons: int | None
    tenants: tuple[int, ...]


def _library() -> Any | None:
    """The initialised binding, or None without a driver. nvmlInit counts references; a second one is cheap."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no module, no driver library, no permission: all mean the same here
        return None
    return pynvml


def _try(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # NVML raises for every quantity that a board does not support
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible, in its order."""
    nvml = _library()
    if nvml is None:
        return []
    found = [_read(nvml, index) for index in range(_try(nvml.nvmlDeviceGetCount) or 0)]
    return _visible([gpu for gpu in found if gpu is not None])


def _read(nvml: Any, index: int) -> Gpu | None:
    handle = _try(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return None
    memory = _try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    tenants = _try(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return Gpu(
        index=index,
        uuid=_text(_try(lambda: nvml.nvmlDeviceGetUUID(handle)) or index),
        name=_text(_try(lambda: nvml.nvmlDeviceGetName(handle)) or "unknown"),
        driver=_text(_try(nvml.nvmlSystemGetDriverVersion) or "unknown"),
        memory_mib=memory.total / 2**20 if memory else 0.0,
        used_mib=memory.used / 2**20 if memory else 0.0,
        temperature=_try(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        sm_clock=_try(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
        max_sm_clock=_try(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))),
        throttle_reasons=_try(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        tenants=tuple(process.pid for process in tenants),
    )


def _visible(found: list[Gpu]) -> list[Gpu]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return found
    visible: list[Gpu] = []
    for name in (part.strip() for part in chosen.split(",")):
        match = [g for g in found if name and (name == str(g.index) or (name[:3] == "GPU" and g.uuid.startswith(name)))]
        if not match:
            break  # as CUDA does: everything after the first unknown name is invisible
        visible.append(match[0])
    return visible


def handle_of(uuid: str) -> Any | None:
    """NVML's handle of the GPU with this UUID (with or without the `GPU-` prefix)."""
    nvml = _library()
    if nvml is None:
        return None
    full = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    return _try(lambda: nvml.nvmlDeviceGetHandleByUUID(full.encode() if hasattr(full, "encode") else full))


def energy_joules(handle: Any) -> float | None:
    """Energy that the board has used since the driver was loaded."""
    nvml = _library()
    millijoules = _try(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) if nvml and handle else None
    return None if millijoules is None else millijoules / 1000.0


def process_memory_mib(handle: Any, pid: int) -> float | None:
    """Device memory of one process, context and allocator cache included, as `nvidia-smi` shows it."""
    nvml = _library()
    if nvml is None or handle is None:
        return None
    for process in _try(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []:
        if process.pid == pid and process.usedGpuMemory:
            return float(process.usedGpuMemory) / 2**20
    return None
