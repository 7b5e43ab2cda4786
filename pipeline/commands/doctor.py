"""`ablate doctor`: is this machine fit for measurements? Each check says ok, warn or fail, and what to do."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import nvml
from pipeline.children import run_python
from pipeline.commands import host_checks
from pipeline.commands.command_options import DoctorOptions
from pipeline.commands.host_checks import Check
from pipeline.commands.output import default_study
from pipeline.design import requirements
from pipeline.errors import AblateError, first_line
from pipeline.paths import STATE_DIR
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.provenance import cpuinfo
from pipeline.tracking.uri import resolve_uri, sqlite_file

MIN_FREE_GIB = 2.0
_IMPORTS = """
import glob, importlib.metadata, importlib.util, os
import torch
folder = os.path.dirname(importlib.util.find_spec("torchvision").origin)
compiled = glob.glob(os.path.join(glob.escape(folder), "_C*.so"))
for file in compiled:
    torch.ops.load_library(file)
if not compiled:
    import torchvision
if importlib.util.find_spec("timm") is None:
    raise ModuleNotFoundError("No module named 'timm'")
versions = [importlib.metadata.version(name) for name in ("torchvision", "timm")]
print(torch.__version__, *versions, torch.version.cuda, torch.cuda.is_available(), torch.get_num_threads(), sep="|")
"""


def run_doctor(options: DoctorOptions) -> int:
    """Runs every check and prints a line for each.

    Args:
        options: of the command.

    Returns:
        The exit code: 1 if a check failed.
    """
    found = []
    for check in checks(options.data_dir, options.tracking_uri):
        found.append(check)
        if not options.as_json:
            remedy = f"  -> {check.remedy}" if check.remedy else ""
            print(f"{check.status:<4}  {check.name:<16} {check.detail}{remedy}", flush=True)
    if options.as_json:
        print(json.dumps({"checks": [vars(check) for check in found]}, indent=1))
    return 1 if any(check.status == "fail" for check in found) else 0


def checks(data_dir: str | None, tracking_uri: str | None) -> Iterator[Check]:
    """Runs every check, the one that takes seconds last; one that breaks is a failed check, never an exception.

    Args:
        data_dir: folder of the data sets; None for the default.
        tracking_uri: the tracking store; None for the default.

    Yields:
        Each as soon as it is done.
    """
    parts: dict[str, Callable[[], list[Check]]] = {
        "python": _python,
        "compiler": _compiler,
        "gpus": _gpus,
        "locked memory": _locked_memory,
        "shared memory": host_checks.shared_memory,
        "open files": host_checks.open_files,
        "cpu": lambda: host_checks.instructions(cpuinfo()),
        "cpu load": _cpu_load,
        "temporary folder": host_checks.temporary_folder,
        "home folder": host_checks.home_folder,
        "locale": host_checks.text_encoding,
        "state folder": lambda: host_checks.state_folder(STATE_DIR),
        "disk": lambda: _disk(STATE_DIR),
        "data": lambda: _data(data_dir),
        "tracking store": lambda: _store(tracking_uri),
        "torch": _torch,
    }
    for name, part in parts.items():
        if part is _torch:
            print("importing PyTorch takes some seconds", file=sys.stderr, flush=True)
        try:
            yield from part()
        except AblateError as error:  # names itself what to do
            yield Check(name, "fail", str(error))
        except Exception as error:
            yield Check(name, "fail", f"{type(error).__name__}: {first_line(error)}", "see the other checks")


def _python() -> list[Check]:
    """An older Python cannot even import this module, so there is nothing to compare."""
    return [Check("python", "ok", sys.version.split()[0])]


def _torch() -> list[Check]:
    """PyTorch is imported in a child: it takes seconds, and a broken install may crash the process.

    Of torchvision its compiled part is loaded, which is what does not fit another PyTorch. The rest of it and timm
    take as long again to import (they have torch.compile's machinery with them), and nothing in them depends on this
    machine: the preflight of a grid imports them.
    """
    run = run_python(_IMPORTS, timeout=180)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        return [Check("torch", "fail", lines[-1], "reinstall: pip install -r requirements.lock")]
    version, vision, timm, cuda, available, threads = run.stdout.strip().splitlines()[-1].split("|")
    found = [
        Check("torch", "ok", f"torch {version}, torchvision {vision}, timm {timm}"),
        host_checks.threads(int(threads)),
    ]
    if available == "True":
        return [*found, Check("cuda", "ok", f"CUDA {cuda}")]
    if nvml.gpus():
        return [
            *found,
            Check("cuda", "fail", f"GPU present, but torch (CUDA {cuda}) cannot use it", "update the driver"),
        ]
    return [*found, Check("cuda", "warn", "no CUDA device: studies run on the CPU", "none needed for quickstart")]


def _compiler() -> list[Check]:
    """Only `compile` needs one; the preflight of a grid that uses it refuses to start without."""
    found = requirements.find_compiler()
    if found is None:
        return [Check("compiler", "warn", "no C++ compiler: compile cannot run", "install g++, or set CXX")]
    return [Check("compiler", "ok", found)]


def _gpus() -> list[Check]:
    found = []
    for gpu in nvml.gpus():
        detail = f"{gpu.name}, driver {gpu.driver}, {gpu.used_mib:.0f} of {gpu.memory_mib:.0f} MiB used"
        if gpu.tenants:
            who = ", ".join(map(str, gpu.tenants))
            found.append(
                Check(f"gpu {gpu.index}", "warn", f"{detail}, also used by process {who}", "end the co-tenants")
            )
        else:
            found.append(Check(f"gpu {gpu.index}", "ok", detail))
    return found


def _locked_memory() -> list[Check]:
    """Pinned buffers are locked by the CUDA driver; the limit matters for other ways of locking."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return [Check("locked memory", "ok", "unlimited")]
    detail = f"limit {soft // 1024} KiB"
    if soft < 64 * 2**20:
        return [Check("locked memory", "warn", detail, "raise it if pinning fails: ulimit -l unlimited")]
    return [Check("locked memory", "ok", detail)]


def _cpu_load() -> list[Check]:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    detail = f"load {load:.1f} on {cores} cores"
    if load > 0.5 * cores:
        return [Check("cpu load", "warn", detail, "wait until nothing else runs: it would be measured too")]
    return [Check("cpu load", "ok", detail)]


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path


def _disk(path: Path) -> list[Check]:
    place = _existing(path)
    free = shutil.disk_usage(place).free / 2**30
    detail = f"{free:.1f} GiB free for {path}"
    if not os.access(place, os.W_OK):
        return [Check("disk", "fail", f"{place} cannot be written", "run in a folder that you may write")]
    if free < MIN_FREE_GIB:
        return [Check("disk", "warn", detail, f"free at least {MIN_FREE_GIB:g} GiB")]
    return [Check("disk", "ok", detail)]


def _data(data_dir: str | None) -> list[Check]:
    from pipeline.paths import default_data_dir

    place = Path(data_dir) if data_dir else default_data_dir()
    if not os.access(_existing(place), os.W_OK):
        return [Check("data", "fail", f"{place} cannot be written", "choose another with --data-dir")]
    prepared = [path for path in place.glob("stores/*") if (path / "meta.json").is_file()]
    folders = sum(path.name.startswith("imagefolder-") for path in prepared)
    named = sorted(path.name.rpartition("-v")[0] for path in prepared if not path.name.startswith("imagefolder-"))
    kinds = [*named, *([f"image folders ({folders} stores)"] if folders else [])]
    if not kinds:
        return [Check("data", "ok", f"nothing is prepared in {place} yet; the first run does it")]
    size = sum(file.stat().st_size for path in prepared for file in path.iterdir() if file.is_file()) / 2**20
    return [Check("data", "ok", f"prepared in {place} ({size:,.1f} MiB): {', '.join(kinds)}")]


def _store(tracking_uri: str | None) -> list[Check]:
    name = "tracking store"
    try:
        uri = resolve_uri(tracking_uri)
        database = sqlite_file(uri)
        if database is not None and not database.is_file():
            return [Check(name, "ok", "made by the first grid")]
        readers = mlflow_sqlite.open_readers(database)
        if database is not None and readers is not None and mlflow_sqlite.tables_are_current(database):
            runs = {reader.experiment: reader.count_runs() for reader in readers}
            said = [f"{count} runs in experiment {experiment}" for experiment, count in runs.items() if count]
            return [Check(name, "ok", f"answers, {', '.join(said) or 'no runs'}")]
        store = MlflowStore(uri, default_study(), STATE_DIR / "artifacts")
        store.connect(create=False)
        return [Check(name, "ok", f"answers, {len(store.attempts())} runs in experiment {store.experiment}")]
    except AblateError as error:
        return [Check(name, "fail", str(error), "start the server, or name another with --tracking-uri")]
