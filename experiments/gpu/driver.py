"""Two questions about the driver: a forked rank's device, and what NVML tells. Each is asked in a fresh process."""

from __future__ import annotations

import os
import statistics
import time
from itertools import pairwise
from typing import Any

Answer = dict[str, Any]


def first_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


def elastic_rank(device_name: str) -> Answer:
    """One rank through torch's elastic launcher, forked as `ablate --nproc` forks its ranks: can it use the device?"""
    from pipeline.environment import process_environment

    os.environ.update(process_environment())  # as in a worker: before torch is imported
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=1,
        run_id="probe",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="fork",
        max_restarts=0,
        monitor_interval=0.1,
    )
    # a rank that raises would end the launcher with a table instead of the message
    answer: Answer = elastic_launch(config, _rank)(device_name)[0]
    return answer


def _rank(device_name: str) -> Answer:
    import torch

    try:
        total = float(torch.ones(1000, device=device_name).sum())
    except Exception as error:
        return {"error": first_line(error), "bad_fork": torch.cuda._is_in_bad_fork()}
    return {"ok": total == 1000.0, "bad_fork": torch.cuda._is_in_bad_fork()}


def watch(device_name: str) -> Answer:
    """What NVML tells: tenants beside our own number (is it the same namespace?), how often energy moves, clocks."""
    from pipeline import nvml as ours

    gpus = ours.gpus()
    if not gpus:
        return {"absent": "no NVIDIA driver"}
    import torch

    busy = torch.rand(4096, 4096, device=device_name)
    for _ in range(50):
        busy = (busy @ busy).clamp(-1, 1)
    gpu = ours.gpus()[0]
    handle = ours.handle_of(gpu.uuid)
    readings: list[tuple[float, float]] = []
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        joules = ours.energy_joules(handle)
        if joules is None:
            break
        if not readings or joules != readings[-1][1]:
            readings.append((time.perf_counter(), joules))
        busy = (busy @ busy).clamp(-1, 1)
    torch.cuda.synchronize()
    pairs = list(pairwise(readings[1:]))  # the first step began before the watch
    return {
        "pid": os.getpid(),
        "tenants": list(gpu.tenants),
        "own_memory_mib": ours.process_memory_mib(handle, os.getpid()),
        "used_mib_before": gpus[0].used_mib,
        "used_mib": gpu.used_mib,
        "energy_steps": len(pairs),
        "energy_smallest_joules": min((b[1] - a[1] for a, b in pairs), default=None),
        "energy_smallest_seconds": min((b[0] - a[0] for a, b in pairs), default=None),
        "energy_median_seconds": statistics.median(b[0] - a[0] for a, b in pairs) if pairs else None,
        "sm_clock_mhz": gpu.sm_clock,
        "temperature_c": gpu.temperature,
        "throttle_reasons": gpu.throttle_reasons,
        "driver": gpu.driver,
        "name": gpu.name,
    }
