"""What the NVIDIA management library tells, without torch and without touching CUDA.

Every function answers None or an empty list where there is no driver: a quantity that the machine cannot
measure is absent, never zero.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
    handles = [_try(partial(nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(_count(nvml))]
    found = [_read(nvml, index, handle) for index, handle in enumerate(handles) if handle is not None]
    return _visible(found, lambda name: _slice(nvml, name))


def _count(nvml: Any) -> int:
    return _try(nvml.nvmlDeviceGetCount) or 0


def _slice(nvml: Any, name: str) -> Gpu | None:
    """A part of a GPU (MIG) by its UUID; NVML does not list parts. What only the whole board has is None."""
    handle = _try(lambda: nvml.nvmlDeviceGetHandleByUUID(name))
    if handle is None:
        return None
    board = _try(lambda: nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    index = _try(lambda: int(nvml.nvmlDeviceGetIndex(board))) if board is not None else None
    return _read(nvml, index or 0, handle)


def _read(nvml: Any, index: int, handle: Any) -> Gpu:
    memory = _try(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    tenants = _try(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return Gpu(
        index=index,
        uuid=_text(_try(lambda: nvml.nvmlDeviceGetUUID(handle)) or index),
        name=_text(_try(lambda: nvml.nvmlDeviceGetName(handle)) or "unknown"),
        driver=_text(_try(lambda: nvml.nvmlSystemGetDriverVersion()) or "unknown"),
        memory_mib=memory.total / 2**20 if memory else 0.0,
        used_mib=memory.used / 2**20 if memory else 0.0,
        temperature=_try(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        sm_clock=_try(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
        throttle_reasons=_try(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        tenants=tuple(process.pid for process in tenants),
    )


def _visible(found: list[Gpu], part: Callable[[str], Gpu | None]) -> list[Gpu]:
    """Those of all GPUs that CUDA_VISIBLE_DEVICES names.

    Args:
        found: all GPUs.
        part: looks a part of a GPU up by its name.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return found
    visible: list[Gpu] = []
    for name in (part.strip() for part in chosen.split(",")):
        match = [g for g in found if name and (name == str(g.index) or (name[:3] == "GPU" and g.uuid.startswith(name)))]
        if name.startswith("MIG-") and (slice_ := part(name)) is not None:
            match = [slice_]
        if not match:
            break  # as CUDA does: everything after the first unknown name is invisible
        visible.append(match[0])
    return visible


def handle_of(uuid: str) -> Any | None:
    """NVML's handle of the GPU, or part of one, with this UUID; torch tells it without the prefix."""
    nvml = _library()
    if nvml is None:
        return None
    names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    handles = (_try(partial(nvml.nvmlDeviceGetHandleByUUID, name)) for name in names)
    return next((handle for handle in handles if handle is not None), None)


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
