"""Three figures of a device's speed: first passes, matrix products, a whole model. Each is asked in a fresh process."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any, cast

Answer = dict[str, Any]


def first_use(device_name: str) -> Answer:
    """What the first forward and backward passes cost, before any warm-up: seconds and peak memory.

    Cold, warm, and for another batch size: cuDNN looks for its algorithms once for every shape.
    """
    import torch

    from pipeline.design.spec import Device, Recipe, RunSpec
    from pipeline.training import models
    from pipeline.training.environment import open_device, prepare_process

    cuda = device_name == "cuda"
    kind: Device = "cuda" if cuda else "cpu"
    name, batch, side = ("resnet50", 128, 32) if cuda else ("test_resnet", 16, 32)
    spec = RunSpec(model=name, dataset="cifar10", device=kind, recipe=Recipe(image_size=side))
    began = time.perf_counter()
    prepare_process(spec)
    device = open_device(spec)
    torch.zeros(1, device=device)
    opened = time.perf_counter() - began
    model = models.build_model(name, spec.recipe, 10).to(device)

    def passes(size: int) -> Answer:
        images = torch.rand(size, 3, side, side, device=device)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            model(images).float().sum().backward()
            model.zero_grad(set_to_none=True)
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident_mib()
        return {"seconds": seconds, "peak_mib": peak}

    short = batch * 5 // 8
    return {
        "model": name,
        "batch": batch,
        "short_batch": short,
        "open_device_seconds": opened,
        "cold": passes(batch),
        "warm": passes(batch),
        "short_cold": passes(short),
        "short_warm": passes(short),
    }


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matmul(device_name: str) -> Answer:
    """TFLOP/s of a large square product, for each arithmetic: what share of the peak can be had here."""
    import torch

    from pipeline.training.precision import set_matmul_precision

    cuda = device_name == "cuda"
    side, times = (8192, 12) if cuda else (512, 5)
    kinds = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    found: Answer = {"side": side, "seconds": {}}
    for name, dtype in kinds.items():
        if name == "tf32" and not cuda:
            continue
        set_matmul_precision(tf32=name == "tf32")
        left, right = (torch.randn(side, side, device=device_name).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(times):
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
            left @ right
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        middle = statistics.median(seconds[2:])  # without the first two, which find algorithms
        found[f"{name}_tflops"] = 2 * side**3 / middle / 1e12
        found["seconds"][name] = seconds
    return found


def resnet50_224(device_name: str) -> Answer:
    """Images/s of ResNet-50 at 224 px with fp16 autocast and channels_last, on images that lie on the device.

    On a CPU a tiny model on small images, as a rehearsal; the answer says which.
    """
    import torch

    from pipeline.design.spec import Device, Recipe, RunSpec
    from pipeline.training import models
    from pipeline.training.environment import open_device, prepare_process

    cuda = device_name == "cuda"
    kind: Device = "cuda" if cuda else "cpu"
    name, batch, side, steps = ("resnet50", 256, 224, 30) if cuda else ("test_resnet", 4, 32, 2)
    spec = RunSpec(model=name, dataset="cifar10", device=kind, recipe=Recipe(image_size=side))
    prepare_process(spec)
    device = open_device(spec)
    model = models.build_model(name, spec.recipe, 1000).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type)
    images = torch.rand(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.float16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        cast(Any, scaler.scale(loss)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def timed(count: int) -> float:
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            step()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    timed(max(2, steps // 3))
    seconds = timed(steps)
    return {
        "model": name,
        "image_size": side,
        "batch": batch,
        "steps": steps,
        "images_per_second": batch * steps / seconds,
    }
