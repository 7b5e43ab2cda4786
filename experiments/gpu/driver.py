"""Two questions about the driver: a forked rank's device, and what NVML tells. Each is asked in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def first_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


def elastic_rank(device_name: str) -> Answer:
    """One rank, started as those of `ablate --nproc` are: can it use the device?"""
    from pipeline.host import process_environment

    os.environ.update(process_environment())  # as in a worker: before torch is imported
    from pipeline.design.records import Job
    from pipeline.design.spec import Device, RunSpec
    from pipeline.training import ranks, worker

    kind: Device = "cuda" if device_name == "cuda" else "cpu"
    with tempfile.TemporaryDirectory(prefix="ablate-probe-") as folder:
        spec = RunSpec(model="test_resnet", dataset="digits", device=kind)
        job = Job(spec=spec, data_dir=folder, work_dir=folder)
        answer = Path(folder, "answer.json")
        end = ranks.run_ranks(job, partial(_rank, device_name, answer), worker.classify)
        found: Answer = json.loads(answer.read_text()) if answer.is_file() else {}
    return found if end.outcome == "finished" else {**found, "error": f"{end.outcome}: {end.error}"}


def _rank(device_name: str, answer: Path) -> None:
    import torch

    answer.write_text(json.dumps({"bad_fork": torch.cuda._is_in_bad_fork()}))
    total = float(torch.ones(1000, device=device_name).sum())
    answer.write_text(json.dumps({"bad_fork": torch.cuda._is_in_bad_fork(), "ok": total == 1000.0}))


def watch(device_name: str) -> Answer:
    """What NVML tells: tenants beside our own number (is it the same namespace?), how often energy moves, clocks."""
    from pipeline import nvml

    gpus = nvml.gpus()
    if not gpus:
        return {"absent": "no NVIDIA driver"}
    import torch

    busy = torch.rand(4096, 4096, device=device_name)
    for _ in range(50):
        busy = (busy @ busy).clamp(-1, 1)
    gpu = nvml.gpus()[0]
    handle = nvml.handle_of(gpu.uuid)
    readings: list[tuple[float, float]] = []
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        joules = nvml.energy_joules(handle)
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
        "own_memory_mib": nvml.process_memory_mib(handle, os.getpid()),
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
