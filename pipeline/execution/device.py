"""The device that runs train on."""

from __future__ import annotations

from pipeline import nvml
from pipeline.design.options import LauncherOptions
from pipeline.design.spec import Device
from pipeline.errors import OutsideError


def device_of(options: LauncherOptions) -> Device:
    """Returns the device that the options ask for: of this machine, or of the cluster that `--launcher ray` goes to.

    Raises:
        InputError, OutsideError: no such device, or no such cluster.
    """
    if options.launcher != "ray":
        return resolve_device(options.device)
    if options.device == "auto":
        from pipeline.execution.ray.cluster import has_gpus

        return "cuda" if has_gpus(options.address) else "cpu"
    return "cuda" if options.device == "cuda" else "cpu"


def resolve_device(wanted: str) -> Device:
    """Returns `cuda` or `cpu`; `auto` takes CUDA where NVML shows a GPU, and nothing heavy is imported for it.

    Raises:
        OutsideError: CUDA is wanted and there is none.
    """
    gpus = nvml.gpus()
    if wanted == "cuda" and not gpus:
        raise OutsideError("device cuda: no NVIDIA GPU is visible on this machine; use --device cpu")
    return "cuda" if wanted != "cpu" and gpus else "cpu"
