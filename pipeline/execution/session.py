"""From flags to a grid: study, device, plan, launcher, book and controller, put together for the commands."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline import nvml
from pipeline.design import catalog, study, techniques
from pipeline.design import requirements as requires
from pipeline.design.plan import Plan, build
from pipeline.design.spec import RERUNS_FROM, Device, RunSpec, content_digest
from pipeline.design.study import Study
from pipeline.errors import InputError, OutsideError, not_allowed
from pipeline.execution.controller import Grid, Listener, Tally
from pipeline.execution.interference import Gate
from pipeline.tracking.uri import STATE_DIR, resolve_uri
from pipeline.training.environment import scrubbed, without_credentials


@dataclass(frozen=True)
class Flags:
    """What the command line said, after environment variables; None or empty where it said nothing."""

    study: str | None = None
    models: str | None = None
    datasets: str | None = None
    techniques: str | None = None
    levels: tuple[str, ...] = ()
    seeds: int | None = None
    settings: tuple[str, ...] = ()
    design: str | None = None
    device: str = "auto"
    jobs: int | None = None
    data_dir: str | None = None
    tracking_uri: str | None = None
    fresh: bool = False
    timeout: float | None = None
    retries: int = 2
    checkpoint_every: int = 0
    until_decided: bool = False
    precision: float = 0.02
    max_blocks: int = 20
    rerun_tainted: bool = False
    launcher: str = "local"
    address: str = "auto"
    nproc: int = 1
    overrides: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Choice:
    """The study to run, where, and the sentence that says why."""

    plan: Plan
    headline: str


def device_of(flags: Flags) -> Device:
    """The device that the flags ask for: of this machine, or of the cluster that `--launcher ray` goes to.

    Raises:
        InputError, OutsideError: no such device, or no such cluster.
    """
    if flags.launcher != "ray":
        return resolve_device(flags.device)
    if flags.device == "auto":
        from pipeline.execution.ray.cluster import has_gpus

        return "cuda" if has_gpus(flags.address) else "cpu"
    return "cuda" if flags.device == "cuda" else "cpu"


def make_launcher(flags: Flags, device: Device, state_dir: Path, scope: str, note: Callable[[str], None]) -> Any:
    """The launcher that the flags ask for; every command that runs cells gets its launcher here.

    Args:
        flags: from the command line.
        device: where runs train.
        state_dir: `mlruns`; work folders are made in it.
        scope: names tracking store and experiment, in which blocks are numbered.
        note: shows a line to the user.

    Raises:
        InputError: more runs at once than there are GPUs.
    """
    common: dict[str, Any] = {
        "work_dir": state_dir / "work",
        "timeout": flags.timeout,
        "checkpoint_every": flags.checkpoint_every,
    }
    data_dir = Path(flags.data_dir) if flags.data_dir else None
    if flags.launcher == "ray":
        from pipeline.execution.ray.launcher import RayLauncher

        return RayLauncher(
            device, address=flags.address, jobs=flags.jobs, data_dir=data_dir, scope=scope, note=note, **common
        )
    from pipeline.design.imagefolder import default_data_dir
    from pipeline.execution.local.launcher import LocalLauncher

    gpus = [gpu.uuid for gpu in nvml.gpus()] if device == "cuda" else []
    if gpus and flags.nproc > len(gpus):
        raise not_allowed("--nproc", flags.nproc, f"at most one process per GPU, of which {len(gpus)} are visible")
    places = [",".join(gpus[start : start + flags.nproc]) for start in range(0, len(gpus), flags.nproc)]
    places = places[: len(gpus) // flags.nproc]  # without the rest that is too few for a run
    wanted = flags.jobs or (len(places) if places else 1)
    if places and wanted > len(places):
        each = f"{flags.nproc} of them for each" if flags.nproc > 1 else "one for each"
        raise not_allowed("--jobs", wanted, f"at most one run per GPU, of which {len(gpus)} are visible ({each})")
    return LocalLauncher(device, gpus=places[:wanted], jobs=wanted, data_dir=data_dir or default_data_dir(), **common)


def resolve_device(wanted: str) -> Device:
    """`auto` takes CUDA where NVML shows a GPU; nothing heavy is imported for it.

    Raises:
        OutsideError: CUDA is wanted and there is none.
    """
    found = nvml.gpus()
    if wanted == "cuda" and not found:
        raise OutsideError("device cuda: no NVIDIA GPU is visible on this machine; use --device cpu")
    return "cuda" if wanted != "cpu" and found else "cpu"


def choose(flags: Flags, single: bool = False) -> Choice:
    """Builds the plan that the flags ask for.

    Args:
        flags: from the command line.
        single: one cell (`ablate run`): `--techniques` are those that are on.

    Raises:
        InputError: anything that is not allowed, before anything runs.
        OutsideError: no such device.
    """
    device = device_of(flags)
    name = flags.study or ("paper" if device == "cuda" else "quickstart")
    chosen = _with_flags(study.load(name), flags, device)
    study.check(chosen, "command line")
    plan = _parallel(build(chosen, device, study_settings(flags)), flags)
    if single:
        plan = _only(plan, chosen)
    why = "" if flags.study else _why(name, device)
    runs = f"{len(plan.cells)} cells" if len(plan.cells) != 1 else "1 cell"
    return Choice(plan, f"study {chosen.name}{why}: {runs}, {chosen.seeds} block(s), device {device}")


def _why(name: str, device: Device) -> str:
    other = "quickstart" if name == "paper" else "paper"
    reason = "a CUDA device is present" if device == "cuda" else "no CUDA device, the embedded default"
    return f" ({reason}; --study {other} forces the other)"


def _with_flags(base: Study, flags: Flags, device: Device) -> Study:
    changes: dict[str, Any] = {}
    if flags.models not in (None, "all"):
        names = _names(flags.models, "--models")
        changes["models"] = {name: base.models.get(name, {}) for name in names}
    if flags.datasets not in (None, "all"):
        changes["datasets"] = _names(flags.datasets, "--datasets")
    if flags.techniques not in (None, "all") or flags.levels:
        changes["techniques"] = _technique_levels(base, flags)
    if flags.seeds is not None:
        changes["seeds"] = flags.seeds
    if flags.design is not None:
        changes["design"] = flags.design
    kept = [
        o
        for o in base.overrides
        if o.model in (None, *changes.get("models", base.models))
        and o.dataset in (None, *changes.get("datasets", base.datasets))
    ]
    changes["overrides"] = [*(override.model_dump() for override in kept), *map(dict, flags.overrides)]
    del device
    return study.replace(base, **changes)


def _names(text: str | None, flag: str) -> list[str]:
    names = [part.strip() for part in (text or "").split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise not_allowed(flag, text, "all, or names separated by commas, each once")
    lookup = catalog.model if flag == "--models" else catalog.dataset if flag == "--datasets" else techniques.get
    for name in names:
        lookup(name)
    return names


def _technique_levels(base: Study, flags: Flags) -> dict[str, tuple[str, ...]]:
    if flags.techniques in ("none", "baseline"):
        levels: dict[str, tuple[str, ...]] = {}
    elif flags.techniques in (None, "all"):
        levels = dict(base.techniques)
    else:
        levels = {name: base.techniques.get(name, ()) for name in _names(flags.techniques, "--techniques")}
    for text in flags.levels:
        name, equals, values = text.partition("=")
        if not equals or not all(values.split(",")):
            raise not_allowed("--technique", text, "NAME=VALUE, or NAME=VALUE,VALUE,.. for several levels")
        techniques.get(name)
        levels[name] = tuple(values.split(","))
    return levels


def _only(plan: Plan, chosen: Study) -> Plan:
    """The one cell of `ablate run`: every technique named is on."""
    if len(chosen.models) != 1 or len(chosen.datasets) != 1:
        raise InputError("--model, --dataset: one model and one data set are needed; allowed: --model M --dataset D")
    on = len(chosen.techniques)
    runs = [run for run in plan.cells if len(run.spec.techniques) == on]
    if any(len(values) > 1 for values in chosen.techniques.values()):
        raise InputError("--technique: several levels are not allowed in a single run; allowed: one level")
    return Plan(plan.study, plan.device, tuple(runs))


class Session:
    """One grid call with all that it holds open.

    Args:
        flags: from the command line.
        choice: the plan.
        listener: shows what happens.
        state_dir: `mlruns`.
    """

    def __init__(self, flags: Flags, choice: Choice, listener: Listener, state_dir: Path = STATE_DIR) -> None:
        from pipeline.tracking.mlflow_store import Tracker

        self.plan = choice.plan
        self.flags = flags
        self.listener = listener
        self._state_dir = state_dir
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutsideError(f"{state_dir}: cannot be made ({error.strerror})") from None
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.plan.study.name
        self.tracker = Tracker(resolve_uri(flags.tracking_uri), experiment, state_dir / "artifacts")
        scope = content_digest([without_credentials(self.tracker.uri), experiment])
        self.launcher = make_launcher(flags, self.plan.device, state_dir, scope, listener.note)
        self.grid: Grid | None = None
        self.began = time.time()

    def run(self, alone: bool = False) -> Tally:
        """Preflight, resume, run, close.

        Raises:
            InputError, OutsideError: before any run.
            KeyboardInterrupt: interrupted before the first run.
        """
        from pipeline.tracking.recorder import Book

        with interruptible(self.launcher, self.listener, lambda: self.grid):
            self.launcher.warm()
            imported = Background(self.tracker.load_library)
            self.launcher.preflight(_distinct(self.plan), self.listener.preparing)
            imported.result()
            self.tracker.connect()  # only now: bad input leaves no store behind
            book = Book(self.tracker, self._state_dir)
            if self.flags.rerun_tainted:
                self.plan = _with_reruns(self.plan, self.tracker.tainted())
            self.grid = Grid(
                self.plan,
                self.launcher,
                book,
                self.listener,
                retries=self.flags.retries,
                state_dir=self._state_dir,
                gate=Gate(self.plan.device) if self.flags.launcher == "local" else None,  # a node looks for itself
            )
            book.start()
            name = f"{self.plan.study.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            tags = {"ablate.study": self.plan.study.name, "ablate.techniques": ",".join(self.plan.study.techniques)}
            self.grid.resume(name, tags, fresh=self.flags.fresh, alone=alone)
            tally = self._until_decided(self.grid, self.grid.run())
            self.grid.close(tally, self.grid.results, time.time() - self.began)
            return tally

    def _until_decided(self, grid: Grid, tally: Tally) -> Tally:
        """Adds blocks until every main effect on the training time is known to `--precision`."""
        from pipeline.tracking.study_data import undecided

        study = self.plan.study
        blocks = study.seeds
        while self.flags.until_decided and not tally.interrupted and tally.broken is None:
            left = undecided(self.tracker, study.name, tuple(study.techniques), self.flags.precision)
            if not left:
                self.listener.note(
                    f"decided after {blocks} blocks: every interval is within {self.flags.precision:.1%}"
                )
                break
            if blocks >= self.flags.max_blocks:
                self.listener.note(f"not decided after {blocks} blocks (--max-blocks): {'; '.join(left[:3])}")
                break
            self.listener.note(f"block {blocks}: {len(left)} effects undecided, widest: {left[0]}")
            more = build(study, self.plan.device, study_settings(self.flags), range(blocks, blocks + 1))
            grid.extend(_parallel(more, self.flags))
            blocks += 1
            tally = grid.run()
        self.plan = grid.plan
        return tally


def study_settings(flags: Flags) -> dict[str, Any]:
    """The recipe fields of `--set`."""
    return study.parse_settings(flags.settings)


def _parallel(plan: Plan, flags: Flags) -> Plan:
    """The plan with every run in `--nproc` processes.

    Raises:
        InputError: a micro-batch is too small to be split over them.
    """
    if flags.nproc == 1:
        return plan
    smallest = min(run.spec.recipe.batch_size for run in plan.runs)
    if smallest < 2 * flags.nproc:
        allowed = f"at most half of the smallest batch_size, {smallest} (each process takes part of a micro-batch)"
        raise not_allowed("--nproc", flags.nproc, allowed)
    if any(run.spec.recipe.cuda_graph for run in plan.runs):
        raise not_allowed("--nproc", flags.nproc, "1 with cuda_graph (an exchange of gradients is not recorded)")
    spread = (replace(run, spec=run.spec.model_copy(update={"nproc": flags.nproc})) for run in plan.runs)
    return replace(plan, runs=tuple(spread))


def _with_reruns(plan: Plan, tainted: set[str]) -> Plan:
    """Replaces tainted cells by a further measurement of the same cell, which has a digest of its own."""
    runs = []
    for run in plan.runs:
        spec = run.spec
        while spec.digest in tainted:
            spec = spec.model_copy(update={"repeat": max(spec.repeat + 1, RERUNS_FROM)})
        runs.append(replace(run, spec=spec))
    return replace(plan, runs=tuple(runs))


class Background:
    """Runs a function in a thread while something else goes on; `result` raises what it raised."""

    def __init__(self, function: Any) -> None:
        self._error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Waits; raises the function's error."""
        while self._thread.is_alive():
            self._thread.join(0.2)
        if self._error is not None:
            raise self._error


def _distinct(plan: Plan) -> list[RunSpec]:
    """One specification per thing that the preflight can find wrong."""
    found: dict[tuple[Any, ...], RunSpec] = {}
    for run in plan.runs:
        spec, recipe = run.spec, run.spec.recipe
        key = (
            spec.model,
            spec.dataset,
            recipe.image_size,
            recipe.patch_size,
            recipe.pretrained,
            recipe.weights,
            recipe.input_pipeline,
            recipe.validation_fraction,
            recipe.max_train_samples,
            recipe.max_test_samples,
            requires.key(recipe),
        )
        found.setdefault(key, spec)
    return list(found.values())


class Killable(Protocol):
    """What has workers."""

    def kill(self) -> None:
        """Kills them at once."""
        ...


class Controller(Protocol):
    """What can be asked to stop."""

    def stop(self) -> None:
        """Cancels what runs."""
        ...


@contextmanager
def interruptible(
    launcher: Killable, listener: Listener, controller: Callable[[], Controller | None]
) -> Iterator[None]:
    """First SIGINT or SIGTERM: running cells are cancelled and all rows closed. Second one: leave at once.

    Args:
        launcher: its workers are killed before leaving at once.
        listener: is told.
        controller: what to stop; None while nothing runs yet (then KeyboardInterrupt is raised).
    """
    seen = 0

    def handle(_number: int, _frame: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            launcher.kill()
            os._exit(130)
        running = controller()
        if running is None:
            raise KeyboardInterrupt
        running.stop()
        listener.note("interrupted: closing the running cells (once more to leave at once)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, cast(Any, handler))


def resume_command(arguments: Sequence[str] | None = None) -> str:
    """The command line that goes on where this one stopped, without passwords: it ends up in logs."""
    import shlex

    words = list(sys.argv[1:] if arguments is None else arguments)
    return shlex.join(["ablate", *(scrubbed(word) for word in words if word != "--fresh")])
