"""The host that a call runs on: its folders, its clock, the environment of its children. Standard library only."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from children import Ended, call
from images import Images

REPO = Path(__file__).resolve().parent.parent.parent


class StageError(Exception):
    """A stage that did not do what it should; the message says what failed."""


class LeftOutError(Exception):
    """A stage that cannot run here, or not now, though nothing is wrong; the message says why."""


class LateError(Exception):
    """A stage that was stopped at its limit; the message says what there is all the same."""


@dataclass
class Host:
    """Everything that a stage needs to know.

    Attributes:
        device: cuda or cpu.
        work: all that is made lies here; commands run in it.
        scale: of limits: the budget's share of ten minutes.
        lengths: the same for what is measured: that of the call whose runs are gone on with.
        end: monotonic time at which the last stage has to be over.
        deadline: the same for the present stage; set before each.
        fair: until when the present stage takes no time from the later ones; what may as well be left out ends here.
        images: the data set on its way.
        spare: environment variables that children get besides.
    """

    device: str
    work: Path
    scale: float
    lengths: float
    end: float
    deadline: float = 0.0
    fair: float = 0.0
    images: Images | None = None
    spare: Mapping[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Path:
        """Where wheels are installed."""
        return self.work / "site"

    @property
    def evidence(self) -> Path:
        """What is brought back, as it is laid out there; the tracking store comes to it."""
        return self.work / "evidence"

    @property
    def state(self) -> Path:
        """The folder of tracking store, journal and artifacts."""
        return self.work / "mlruns"

    @property
    def store(self) -> str:
        """The tracking store's address."""
        return f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def left(self) -> float:
        """Seconds of the present stage."""
        return self.deadline - time.monotonic()

    def log(self, stage: str) -> Path:
        """A stage's log."""
        return self.evidence / "logs" / f"{stage}.txt"

    def environment(self) -> dict[str, str]:
        """Of children: the settings of whoever calls are left out, everything is kept in the work folder.

        `PYTHONPATH` and not `sys.path`: the fork server knows only the former, and without it every run would import
        everything anew.
        """
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("ABLATE_", "MLFLOW_"))}
        paths = [str(REPO), str(self.site), *filter(None, [kept.get("PYTHONPATH")])]
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(self.work / "cache"),
            "ABLATE_DATA_DIR": str(self.work / "data"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "passive",
            "TERM": "dumb",
            **self.spare,
        }

    def python(
        self,
        stage: str,
        words: Sequence[str],
        *,
        limit: float | None = None,
        out: Path | None = None,
        cwd: Path | None = None,
        memory: int | None = None,
    ) -> Ended:
        """Runs Python with `words`, at most to the stage's deadline.

        Args:
            stage: in whose log the output goes.
            words: the arguments.
            limit: seconds; what is left of the stage when it is None.
            out: takes standard output.
            cwd: default the work folder.
            memory: bytes of address space that it may have.
        """
        command = [sys.executable, *words]
        if memory is not None:
            command = ["bash", "-c", f'ulimit -v {memory // 1024} && exec "$@"', "bash", *command]
        limit = self.left if limit is None else limit
        return call(command, limit=limit, log=self.log(stage), env=self.environment(), cwd=cwd or self.work, out=out)


def cuda_devices() -> bool:
    """Whether there is any sign of a CUDA device. Nothing is refused for one sign that is missing."""
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value > 0
    return Path("/dev/nvidiactl").exists()


def commit() -> dict[str, str | bool]:
    """The repository's `commit`: `ABLATE_COMMIT`, else git's, with whether the tree is `dirty`.

    What is said goes first: a host that is lent may have a copy of the tree, with a HEAD from before its last commits.
    """
    if said := os.environ.get("ABLATE_COMMIT"):
        return {"commit": said}
    words = ["git", "-C", str(REPO)]
    try:
        top, head = (
            subprocess.run([*words, "rev-parse", what], capture_output=True, text=True, timeout=10, check=True)
            for what in ("--show-toplevel", "HEAD")
        )
        if Path(top.stdout.strip()).resolve() == REPO:
            status = [*words, "status", "--porcelain"]
            changed = subprocess.run(status, capture_output=True, text=True, timeout=20, check=True).stdout
            return {"commit": head.stdout.strip(), "dirty": bool(changed.strip())}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"commit": "unknown"}


def facts() -> dict[str, str]:
    """Versions of what runs."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "absent"
    return {"python": platform.python_version(), "torch": torch}
