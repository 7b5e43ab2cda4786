"""What surrounds a run: seeds, threads, determinism, and provenance.

`process_environment` is for the parent, before any worker starts; it needs no torch. The rest runs in a worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import random
import re
import socket
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pipeline import nvml

if TYPE_CHECKING:
    import torch

    from pipeline.design.spec import RunSpec

_PACKAGES = ("torch", "torchvision", "timm", "mlflow", "optuna", "scikit-learn", "numpy")
# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def process_environment() -> dict[str, str]:
    """Environment of worker processes, set before torch is imported.

    OpenMP threads that spin while waiting steal the cores from everything else: on a busy 2-core machine a step
    was seen 20 times slower without `passive`. Telemetry and hub access have no place in a measurement.

    torch asks the CUDA runtime whether there is a device, which a process that forks afterwards must not do: its
    children cannot open one any more. Some of its own code asks all the same (the elastic launcher does). With
    `PYTORCH_NVML_BASED_CUDA_CHECK` the question goes to NVML, which leaves nothing behind.
    """
    return {
        **_import_path(),
        "OMP_WAIT_POLICY": "passive",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }


def _import_path() -> dict[str, str]:
    """`PYTHONPATH` with the folder of this package, where it has not been installed.

    The fork server does not get its parent's `sys.path` (CPython gh-117378) and passes over a preload that it cannot
    import: every run would import torch anew, without a word.
    """
    root = Path(__file__).resolve().parents[2]
    # an installed package is found anyway, and its folder in front could hide the standard library
    if root.name in ("site-packages", "dist-packages"):
        return {}
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(root)]
    return {"PYTHONPATH": os.pathsep.join([str(root), *others])}


def oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck in this control group (0 where unknown)."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except OSError:
            continue
    return 0


def seed_all(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def prepare(spec: RunSpec) -> None:
    """Sets threads, determinism and seeds for a run. Touches no device (see `open_device`)."""
    import torch

    recipe = spec.recipe
    torch.set_num_threads(recipe.num_threads)
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = recipe.deterministic
    torch.backends.cudnn.benchmark = not recipe.deterministic
    seed_all(spec.seed)
    if spec.device == "cpu":
        keep_freed_memory()


def open_device(spec: RunSpec, index: int = 0) -> torch.device:
    """Opens the run's device: on CUDA this makes a context, which takes memory of the device at once.

    Args:
        spec: the run.
        index: which of the visible GPUs is this process's.

    Raises:
        RuntimeError: the run needs a CUDA device and there is none.
    """
    import torch

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


def without_credentials(uri: str) -> str:
    """The URI without user and password, and without query values that may hold a secret."""
    parts = urlsplit(uri)
    if not parts.scheme or not parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def scrubbed(text: str) -> str:
    """A message without the user and password of any URI in it (errors of HTTP and database libraries quote them)."""
    return re.sub(r"(?<=://)[^\s/]*@", "", text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _git() -> dict[str, str]:
    """Commit and cleanliness of the source tree that the program runs from; nothing when it is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}

    def git(*words: str) -> str:
        found = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
        return found.stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def host_provenance() -> dict[str, str]:
    """Facts about program and host that are the same for every run of a grid call (no torch needed).

    Only named facts are recorded; environment variables never are, since they hold credentials.
    """
    from pipeline import __version__

    facts = {
        "ablate": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu": _cpu_model(),
        "cpu_count": str(os.cpu_count() or 0),
        **{package.replace("-", "_"): found for package in _PACKAGES if (found := _version(package))},
        **_git(),
    }
    return {f"env.{name}": value for name, value in facts.items()}


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Content digest of the program's own sources: tells two working trees of one version apart."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def run_provenance(spec: RunSpec, device: torch.device) -> dict[str, str]:
    """Facts that only the worker knows: device, driver, CUDA and cuDNN versions, threads."""
    import torch

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
        seen = [gpu for gpu in nvml.gpus() if str(properties.uuid) in gpu.uuid]
        if seen:
            facts["gpu_driver"] = seen[0].driver
            facts["gpu_sm_clock_mhz"] = str(seen[0].sm_clock)
            facts["gpu_temperature_c"] = str(seen[0].temperature)
    facts["model_seed"] = str(spec.seed)
    return {f"env.{name}": value for name, value in facts.items()}
