"""What the operating system is asked and told: environment of workers, death with the parent, out-of-memory kills."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import sys
import tempfile
from pathlib import Path

from pipeline.import_path import path_environment

# a socket's path has 107 bytes (sun_path of unix(7)), multiprocessing's end in /pymp-........./listener-.........
LONGEST_TEMPORARY_FOLDER = 107 - len("/pymp-12345678/listener-12345678")

SHARED_MEMORY = Path("/dev/shm")

# What ends a process unless it is handled, and can be: of people, terminals, batch systems and limits.
ENDING_SIGNALS = tuple(
    signal.Signals[name]
    for name in (
        *("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTERM"),
        *("SIGXCPU", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR"),
    )
    if name in signal.Signals.__members__
)


def leave_signals_to_parent() -> None:
    """Ignores what would end this process: a terminal or a batch system tells a whole group, and the parent decides."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def socket_path_excess() -> int:
    """By how many bytes the paths of multiprocessing's sockets in the temporary folder are too long; at most 0 if not.

    Raises:
        OSError: there is no folder for temporary files.
    """
    return len(os.fsencode(tempfile.gettempdir())) - LONGEST_TEMPORARY_FOLDER


def process_environment() -> dict[str, str]:
    """Environment of worker processes, set before torch is imported.

    OpenMP threads that spin while waiting steal the cores from everything else: on a busy 2-core machine a step
    was seen 20 times slower without `passive`. Telemetry and hub access have no place in a measurement.

    torch asks the CUDA runtime whether there is a device, which a process that forks afterwards must not do: its
    children cannot open one any more. Some of its own code asks all the same (the elastic launcher does). With
    `PYTORCH_NVML_BASED_CUDA_CHECK` the question goes to NVML, which leaves nothing behind.
    """
    return {
        **path_environment(),
        "OMP_WAIT_POLICY": "passive",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }


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


def available_memory_mib() -> float:
    """Memory that processes of this control group can still have, MiB; infinite where nobody tells.

    A container sees its host's memory; what it may use is in the control group. Cached files count as available.
    """
    free = [_meminfo_kib("MemAvailable") / 1024, _group_memory_mib()]
    return min(free)


def _meminfo_kib(name: str) -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return float(line.split()[1])
    except OSError:
        pass
    return math.inf


def _group_memory_mib() -> float:
    group = Path("/sys/fs/cgroup")
    try:
        limit = float((group / "memory.max").read_text())  # "max" where there is none
        used = float((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, ValueError, KeyError):
        return math.inf
    return (limit - used + float(cached)) / 2**20


def die_with_parent() -> None:
    """Asks the kernel for SIGKILL when the thread that made this process ends (Linux; elsewhere nothing happens).

    A process that hangs in native code with the interpreter's lock held cannot watch for its parent's end itself. One
    whose parent has died before this call gets no signal: whoever knows the parent's pid should compare.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
