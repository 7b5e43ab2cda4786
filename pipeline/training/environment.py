"""What surrounds a run in its worker process: seeds, threads, determinism, device, and what is noted of them."""

from __future__ import annotations

import contextlib
import ctypes
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline import nvml
from pipeline.design.spec import RunSpec

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def seed_all(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def prepare_process(spec: RunSpec) -> None:
    """Sets threads, determinism and seeds for a run. Touches no device (see `open_device`)."""
    recipe = spec.recipe
    torch.set_num_threads(recipe.num_threads)
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = recipe.deterministic
    torch.backends.cudnn.benchmark = not recipe.deterministic
    seed_all(spec.seed)
    if spec.device == "cpu":
        keep_freed_memory()


@contextlib.contextmanager
def no_algorithm_search() -> Iterator[None]:
    """Within it cuDNN takes the algorithms that its heuristics name, and tries none.

    The search for ResNet-50's forward passes over one more size of batch took 3.5 s on an H100, the training that it
    was to test 2.4 s. What has been found for other sizes is kept.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def open_device(spec: RunSpec, index: int = 0) -> torch.device:
    """Opens the run's device: on CUDA this makes a context, which takes memory of the device at once.

    Args:
        spec: the run; `device` is read.
        index: which of the visible GPUs is this process's, from 0.

    Raises:
        RuntimeError: the run needs a CUDA device and there is none.
    """
    if spec.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is available in the worker process")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def keep_freed_memory() -> None:
    """Has glibc's allocator keep what is freed, as PyTorch's allocators for GPUs do. Elsewhere nothing is done.

    Gradients are dropped after every optimizer update. glibc's default gives the top of its heap back to the kernel
    then, and the next step faults every page in again: 20,000 faults in a step of resnet50, about 0.05 s.
    Blocks of 32 MiB and more, the most that `mallopt` takes, have mappings of their own as before.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def run_provenance(spec: RunSpec, device: torch.device) -> dict[str, str]:
    """Facts that only the worker knows: device, driver, CUDA and cuDNN versions, threads.

    Returns:
        Tags `env.NAME`; memory is in MiB, the clock in MHz, the temperature in degrees Celsius.
    """
    facts = {"device": device.type, "torch_threads": str(torch.get_num_threads())}
    if device.type == "cuda":
        cudnn: Any = torch.backends.cudnn
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu_name": properties.name,
            "gpu_uuid": str(properties.uuid),
            "gpu_memory_mib": str(round(properties.total_memory / 2**20)),
            "cuda": str(torch.version.cuda),
            "cudnn": str(cudnn.version()),
        }
        own = next((gpu for gpu in nvml.gpus() if str(properties.uuid) in gpu.uuid), None)
        if own is not None:
            facts["gpu_driver"] = own.driver
            facts["gpu_sm_clock_mhz"] = str(own.sm_clock)
            facts["gpu_temperature_c"] = str(own.temperature)
    facts["model_seed"] = str(spec.seed)
    return {f"env.{name}": value for name, value in facts.items()}
