"""What `ablate doctor` looks at beside libraries, devices and stores: folders, limits and settings of the host."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline import host
from pipeline.design.names import CPU_BF16_TAG, NO_BF16
from pipeline.errors import AblateError
from pipeline.paths import own_state_dir
from pipeline.tracking.provenance import cpu_facts

MIN_SHARED_MIB = 256  # two batches of 128 images of 224 x 224 for each of two workers, and room for them to be made
MIN_OPEN_FILES = 1024


@dataclass(frozen=True)
class Check:
    """One line: `status` is ok, warn or fail."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def shared_memory() -> list[Check]:
    """The loader's workers hand their batches over in shared memory, of which a container has 64 MiB."""
    name = "shared memory"
    if not host.SHARED_MEMORY.is_dir():
        return [Check(name, "warn", f"no {host.SHARED_MEMORY}", "mount it, or use --set input_pipeline=gather")]
    usage = shutil.disk_usage(host.SHARED_MEMORY)
    detail = f"{usage.free / 2**20:,.0f} of {usage.total / 2**20:,.0f} MiB of {host.SHARED_MEMORY} free"
    if usage.free < MIN_SHARED_MIB * 2**20:
        remedy = "docker run --shm-size=1g (or --ipc=host), or --set input_pipeline=gather, which needs none"
        return [Check(name, "warn", f"{detail}: too little for input_pipeline=loader", remedy)]
    return [Check(name, "ok", detail)]


def instructions(table: str) -> list[Check]:
    """A CPU without instructions for bfloat16 computes it all the same, many times slower than fp32.

    Args:
        table: the kernel's description of the CPU, see `provenance.cpuinfo`.
    """
    facts = {f"env.{name}": value for name, value in cpu_facts(table).items()}
    known = facts.get(CPU_BF16_TAG)
    if known is None:
        return []
    if known != NO_BF16:
        return [Check("cpu", "ok", f"{facts['env.cpu']}, instructions for bfloat16: {known}")]
    remedy = "expect mixed precision in bfloat16 to cost time on this CPU"
    return [Check("cpu", "warn", f"{facts['env.cpu']}, no instructions for bfloat16", remedy)]


def threads(count: int) -> Check:
    """How many threads an operation of PyTorch has.

    Args:
        count: by default, as PyTorch says.
    """
    cores = len(os.sched_getaffinity(0))
    detail = f"PyTorch computes with {count} threads on {cores} cores"
    if count > cores:
        return Check("threads", "warn", detail, f"unset OMP_NUM_THREADS, or set it to {cores}")
    return Check("threads", "ok", detail)


def temporary_folder() -> list[Check]:
    """Processes talk through sockets in it, whose paths the system limits."""
    name = "temporary folder"
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return [Check(name, "fail", error.strerror or str(error), "set TMPDIR to a folder that you may write")]
    wanted = os.environ.get("TMPDIR")
    if host.socket_path_excess() > 0:
        detail = f"{folder}: {host.socket_path_excess()} characters too long for the paths of sockets"
        return [Check(name, "fail", detail, "set TMPDIR to a shorter path, such as /tmp")]
    if wanted and Path(wanted).resolve() != Path(folder).resolve():
        detail = f"TMPDIR={wanted} cannot be written, {folder} is used"
        return [Check(name, "warn", detail, "set TMPDIR to a folder that you may write")]
    return [Check(name, "ok", folder)]


def open_files() -> list[Check]:
    """Pipes of workers, journals and batches in shared memory are open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        limit = "unlimited" if hard == resource.RLIM_INFINITY else hard
        return [Check("open files", "warn", f"limit {soft} (at most {limit})", f"raise it: ulimit -n {MIN_OPEN_FILES}")]
    return [Check("open files", "ok", "unlimited" if soft == resource.RLIM_INFINITY else f"limit {soft}")]


def state_folder(folder: Path) -> list[Check]:
    """Who else may write the state folder may plant journals and databases in it.

    Args:
        folder: `mlruns`.
    """
    name = "state folder"
    try:
        found = folder.stat()
        own_state_dir(folder, create=False)
    except FileNotFoundError:
        return [Check(name, "ok", f"{folder} is made by the first grid")]
    except OSError as error:
        return [Check(name, "fail", f"{folder}: {error.strerror}", "run in a folder that you may read and write")]
    except AblateError as error:  # names itself what to do
        return [Check(name, "fail", str(error))]
    if not stat.S_ISDIR(found.st_mode):
        return [Check(name, "fail", f"{folder} is no folder", "move it away, or run in another folder")]
    return [Check(name, "ok", f"{folder}, mode {stat.S_IMODE(found.st_mode):o}")]


def home_folder() -> list[Check]:
    """Data sets and weights are kept in it when nobody says otherwise."""
    name, remedy = "home folder", "set HOME, or XDG_CACHE_HOME and --data-dir, to a folder that you may write"
    try:
        folder = Path.home()
    except RuntimeError:
        return [Check(name, "warn", "there is none", remedy)]
    if not folder.is_dir():
        return [Check(name, "warn", f"{folder} is not there", remedy)]
    return [Check(name, "ok", str(folder))]


def text_encoding() -> list[Check]:
    """Everything works without UTF-8, and looks plainer."""
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") not in ("utf8", "utf_8"):
        detail = f"{encoding}: what it lacks is shown as escapes"
        return [Check("locale", "warn", detail, "export LC_ALL=C.UTF-8")]
    return [Check("locale", "ok", encoding)]
