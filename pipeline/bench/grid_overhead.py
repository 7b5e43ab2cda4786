"""Wall time of a whole `ablate grid` call over the training and evaluation time of its runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.children import start_module
from pipeline.design.names import EVAL_SECONDS, SETUP_SECONDS, TRAIN_SECONDS
from pipeline.errors import OutsideError
from pipeline.files import writing
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.uri import resolve_uri


@dataclass(frozen=True)
class GridCost:
    """One grid call.

    Attributes:
        wall_seconds: from the start of the command to its end.
        run_seconds: training and evaluation, summed over the runs.
        setup_seconds: what the runs needed before training, summed.
        runs: finished runs.
        memory_mib: peak resident memory of the controller, without its workers.
    """

    wall_seconds: float
    run_seconds: float
    setup_seconds: float
    runs: int
    memory_mib: float

    @property
    def ratio(self) -> float:
        """Wall time over the runs' own time."""
        return self.wall_seconds / self.run_seconds


def grid_cost(study: str, device: str, folder: Path) -> GridCost:
    """Runs a study in an empty folder, data preparation included.

    Raises:
        OutsideError: not every run finished.
    """
    uri = f"sqlite:///{folder.resolve()}/mlruns/mlflow.db"
    words = ["grid", "--study", study, "--device", device, "--json"]
    words += ["--tracking-uri", uri, "--data-dir", str(folder.resolve() / "data")]
    began = time.perf_counter()
    with writing(folder / "grid.log") as log:
        process = start_module(
            "pipeline", *words, environment=_environment(), cwd=folder, stdout=subprocess.PIPE, stderr=log
        )
        peak = _watch(process)
        output = process.stdout.read() if process.stdout is not None else b""
    wall = time.perf_counter() - began
    if process.returncode != 0:
        raise OutsideError(f"grid_overhead: the grid ended with exit status {process.returncode}; {_tail(folder)}")
    name = json.loads(output)["experiment"]
    store = MlflowStore(resolve_uri(uri), name, folder / "artifacts")
    store.connect(create=False)
    return _cost(store, wall, peak)


def _cost(store: MlflowStore, wall: float, peak: float) -> GridCost:
    runs = list(store.values_by_digest().values())
    own = sum(values[TRAIN_SECONDS] + values[EVAL_SECONDS] for values in runs)
    setup = sum(values.get(SETUP_SECONDS, 0.0) for values in runs)
    return GridCost(wall, own, setup, len(runs), peak)


def _environment() -> dict[str, str]:
    """The user's, without settings of ablate and MLflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ABLATE_", "MLFLOW_"))}


def _watch(process: subprocess.Popen[Any]) -> float:
    """Waits for the command and returns its peak memory in MiB, which the kernel keeps until it ends."""
    peak = 0.0
    try:
        while process.poll() is None:
            peak = max(peak, _peak_of(process.pid))
            time.sleep(0.25)
    except BaseException:
        process.terminate()  # it closes its rows and ends its workers
        process.wait(30)
        raise
    return peak


def _peak_of(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _tail(folder: Path) -> str:
    lines = (folder / "grid.log").read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no message"
