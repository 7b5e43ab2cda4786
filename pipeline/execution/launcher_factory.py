"""The launcher that the options ask for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from pipeline import nvml
from pipeline.design.options import LauncherOptions
from pipeline.design.spec import Device
from pipeline.errors import not_allowed
from pipeline.execution.launcher import Launcher
from pipeline.host import LONGEST_TEMPORARY_FOLDER, socket_path_excess


class _Common(TypedDict):
    work_dir: Path
    timeout: float | None
    checkpoint_every: int


def make_launcher(
    options: LauncherOptions,
    device: Device,
    state_dir: Path,
    scope: str,
    note: Callable[[str], None],
    *,
    timeout: float | None,
    checkpoint_every: int,
    nproc: int,
) -> Launcher:
    """Makes the launcher that the options ask for; every command that runs cells gets its launcher here.

    Args:
        options: from the command line.
        device: where runs train.
        state_dir: `mlruns`; work folders are made in it.
        scope: names tracking store and experiment, in which blocks are numbered.
        note: shows a line to the user.
        timeout: longest time of a run in s; None for no limit.
        checkpoint_every: epochs between two checkpoints of a run; 0 for none.
        nproc: processes of one run.

    Raises:
        InputError: more runs at once, or more processes for one run, than there are GPUs.
    """
    common: _Common = {
        "work_dir": state_dir / "work",
        "timeout": timeout,
        "checkpoint_every": checkpoint_every,
    }
    data_dir = Path(options.data_dir) if options.data_dir else None
    if options.launcher == "ray":
        from pipeline.execution.ray.launcher import RayLauncher

        return RayLauncher(
            device, address=options.address, jobs=options.jobs, data_dir=data_dir, scope=scope, note=note, **common
        )
    from pipeline.execution.local.launcher import LocalLauncher
    from pipeline.paths import default_data_dir

    if socket_path_excess() > 0:  # the fork server listens there
        allowed = f"a folder whose path has at most {LONGEST_TEMPORARY_FOLDER} characters (of sockets in it 107)"
        raise not_allowed("TMPDIR", tempfile.gettempdir(), allowed)
    gpus = [gpu.uuid for gpu in nvml.gpus()] if device == "cuda" else []
    if gpus and nproc > len(gpus):
        raise not_allowed("--nproc", nproc, f"at most one process per GPU, of which {len(gpus)} are visible")
    slots = [",".join(gpus[start : start + nproc]) for start in range(0, len(gpus), nproc)]
    slots = slots[: len(gpus) // nproc]  # without the rest that is too few for a run
    wanted = options.jobs or (len(slots) if slots else 1)
    if slots and wanted > len(slots):
        each = f"{nproc} of them for each" if nproc > 1 else "one for each"
        raise not_allowed("--jobs", wanted, f"at most one run per GPU, of which {len(gpus)} are visible ({each})")
    return LocalLauncher(device, gpus=slots[:wanted], jobs=wanted, data_dir=data_dir or default_data_dir(), **common)
