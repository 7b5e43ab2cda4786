"""The node's side of the Ray launcher: what its tasks do on a machine of the cluster.

A Ray worker process keeps a `LocalLauncher`, hence a warm fork server, from one task to the next: each run still is
a process of its own, forked from it, and does not pay for imports. Nothing is written that outlives the task: logs,
figures and checkpoints travel to the controller in the stream.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.design.names import MOVED_TAG, TAINTED_TAG
from pipeline.design.records import Artifact, End, Record, Tags, parse_record
from pipeline.design.spec import Device, RunSpec
from pipeline.errors import AblateError
from pipeline.execution.interference import cpu_interference, gpu_interference
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.paths import write_atomically
from pipeline.tracking.provenance import host_provenance, source_digest

COMPARED = ("python", "ablate", "source", "torch", "torchvision", "timm", "numpy")
LOG_BYTES = 4 * 2**20  # of a log, from its end, that travel
CHECKPOINT = "checkpoint.pt"
_FOLDER = "ablate-ray-"


@dataclass(frozen=True)
class Request:
    """What a node needs for its runs, the same for all runs of a controller.

    Attributes:
        device: where runs train.
        data_dir: of data sets; None for the node's default.
        timeout: time after which a run is stopped, in s; None for none.
        checkpoint_every: epochs between checkpoints; 0 for none.
        environment: variables to set; None removes one.
    """

    device: Device
    data_dir: str | None
    timeout: float | None
    checkpoint_every: int
    environment: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class File:
    """A file of a run's folder, as it travels.

    Attributes:
        path: relative to the folder.
        content: all of it.
    """

    path: str
    content: bytes


Item = str | File  # a record as JSON, or a file that a record will name


def facts(device: Device) -> dict[str, str]:
    """Returns versions and hardware of this machine: `COMPARED`, `hostname` and `model` (the GPU's or CPU's name).

    Args:
        device: where runs train; decides whose name `model` is.
    """
    from pipeline import nvml

    _unhide_gpus()
    provenance = {name.removeprefix("env."): value for name, value in host_provenance().items()}
    gpus = sorted({gpu.name for gpu in nvml.gpus()}) if device == "cuda" else []
    versions = {name: provenance.get(name, "none") for name in COMPARED} | {"source": source_digest()}
    return {**versions, "hostname": provenance["hostname"], "model": "+".join(gpus) or provenance["cpu"]}


def check_node(request: Request, specs: list[str]) -> tuple[int, str]:
    """Prepares data and checks models and weights on this node.

    Args:
        request: what the runs need.
        specs: run specifications, as JSON.

    Returns:
        Exit code and message; (0, "") if all is well.
    """
    launcher = launcher_of(request)
    launcher.start()
    try:
        launcher.preflight([RunSpec.model_validate_json(spec) for spec in specs])
    except AblateError as error:
        return error.exit_code, str(error)
    return 0, ""


def run_cell(request: Request, spec_json: str, node: str, moved: str, watch: bool, checkpoint: Any) -> Iterator[Item]:
    """Runs one cell in a fresh process; the last item is its `End`.

    Args:
        request: what all runs need.
        spec_json: the run.
        node: Ray's name of this node, for provenance.
        moved: why the block is on more than one node, if it is.
        watch: look whether others use the CPU first (nothing else of ours runs here).
        checkpoint: content of the checkpoint to go on from, or None.
    """
    spec = RunSpec.model_validate_json(spec_json)
    launcher = launcher_of(request)
    folder = launcher.work_dir(spec)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if checkpoint is not None:
            write_atomically(folder / CHECKPOINT, checkpoint)
        gpu = assigned_gpus() if request.device == "cuda" else None
        yield node_tags(node, moved, doubts_here(gpu, watch=watch))
        yield from with_files(launcher.launch_job(launcher.job(spec, gpu)), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def doubts_here(gpu: str | None, *, watch: bool) -> list[str]:
    """Why to doubt what runs here now.

    Args:
        gpu: GPUs that are used; None for none.
        watch: look whether others use the CPU.
    """
    return [*(cpu_interference() if watch else []), *gpu_interference(_uuids(gpu))]


def node_tags(node: str, moved: str, doubts: Sequence[str]) -> str:
    """Tags of what runs here, as an item: where it is, and why to doubt it.

    Args:
        node: Ray's name of this node.
        moved: why the block is on more than one node, if it is.
        doubts: of `doubts_here`.
    """
    tags = {**host_provenance(), "env.ray_node": node, "env.nice": str(os.getpriority(os.PRIO_PROCESS, 0))}
    if moved:
        tags[MOVED_TAG] = moved
    if moved or doubts:
        tags[TAINTED_TAG] = "; ".join([*([moved] if moved else []), *doubts])
    return Tags(time=time.time(), values=tags).model_dump_json()


def with_files(records: Iterable[Record], folder: Path) -> Iterator[Item]:
    """A run's records; a file goes before the record that names it, a new checkpoint as soon as it is there.

    Args:
        records: of the run.
        folder: its own on this node.
    """
    saved = _age(folder / CHECKPOINT)
    for record in records:
        age = _age(folder / CHECKPOINT)
        if age not in (saved, None):
            saved = age
            yield File(CHECKPOINT, (folder / CHECKPOINT).read_bytes())
        if isinstance(record, Artifact):
            yield from _file(folder, record.path)
        elif isinstance(record, End) and record.outcome == "finished":
            yield from _file(folder, "log.txt")
        yield record.model_dump_json()


def _file(folder: Path, path: str) -> Iterator[File]:
    try:
        with (folder / path).open("rb") as stream:
            if path == "log.txt":  # of an endless log the end tells most
                stream.seek(max(0, (folder / path).stat().st_size - LOG_BYTES))
            yield File(path, stream.read())
    except FileNotFoundError:
        return


def _age(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def assigned_gpus() -> str:
    """The GPUs that Ray has given to this task, as CUDA_VISIBLE_DEVICES takes them."""
    import ray

    return ",".join(str(gpu) for gpu in ray.get_gpu_ids())


def _uuids(gpu: str | None) -> list[str]:
    """NVML's identifiers of the assigned GPUs (Ray names them by index, or by UUID where it was started so)."""
    from pipeline import nvml

    wanted = set((gpu or "").split(","))
    return [found.uuid for found in nvml.gpus() if found.uuid in wanted or str(found.index) in wanted]


def _unhide_gpus() -> None:
    """Ray hides all GPUs from a task that has none; versions and models are checked in such tasks."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]


@lru_cache(maxsize=1)
def launcher_of(request: Request) -> LocalLauncher:
    """The launcher of this Ray worker process, kept from task to task with its fork server."""
    from pipeline.paths import default_data_dir

    _unhide_gpus()
    with suppress(OSError):  # Ray starts its workers at nice 15 (RAY_worker_niceness), and the run would inherit it
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    for name, value in request.environment:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
    return LocalLauncher(
        request.device,
        gpus=[],
        jobs=1,
        data_dir=Path(request.data_dir) if request.data_dir else default_data_dir(),
        work_dir=folder,
        timeout=request.timeout,
        checkpoint_every=request.checkpoint_every,
    )


def _sweep() -> None:
    """Removes the folders of Ray workers that are gone: Ray ends its workers without a chance to clean up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def parse(item: Item) -> Record | File:
    """Returns an item of the stream as the controller needs it."""
    return item if isinstance(item, File) else parse_record(item)
