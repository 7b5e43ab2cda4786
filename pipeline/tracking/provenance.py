"""Where a run came from: host, versions, commit and sources of the program."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.children import output_of
from pipeline.design.names import CPU_BF16_TAG, NO_BF16

_PACKAGES = ("torch", "torchvision", "timm", "mlflow", "optuna", "scikit-learn", "numpy")


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
        return output_of("git", "-C", str(root), *words, timeout=10)

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def cpu_facts(cpuinfo: str) -> dict[str, str]:
    r"""Returns the processor's name and its instructions for bfloat16 (`none` without), as far as Linux tells them.

    Args:
        cpuinfo: the text of `/proc/cpuinfo`.

    Examples:
        >>> cpu_facts("model name : A\nflags : fpu amx_bf16 avx512_bf16")
        {'cpu': 'A', 'cpu_bf16': 'amx_bf16, avx512_bf16'}
    """
    name, flags = (
        re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE) for key in ("model name", "(?:flags|Features)")
    )
    facts = {"cpu": name.group(1) if name else platform.machine()}
    if flags:
        facts[CPU_BF16_TAG.removeprefix("env.")] = (
            ", ".join(flag for flag in flags.group(1).split() if "bf16" in flag) or NO_BF16
        )
    return facts


def cpuinfo() -> str:
    """Linux's description of the processor; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def system_name() -> str:
    """What `platform.platform` says, which starts a program `uname`, from wherever PATH has one, to say it."""
    library = "".join(platform.libc_ver())
    return "-".join(
        [platform.system(), platform.release(), platform.machine(), *(["with", library] if library else ())]
    )


@lru_cache(maxsize=1)
def host_provenance() -> dict[str, str]:
    """Facts about program and host that are the same for every run of a grid call (no torch needed).

    Only named facts are recorded; environment variables never are, since they hold credentials.
    """
    from pipeline import __version__

    facts = {
        "ablate": __version__,
        "python": platform.python_version(),
        "platform": system_name(),
        "hostname": socket.gethostname(),
        **cpu_facts(cpuinfo()),
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
