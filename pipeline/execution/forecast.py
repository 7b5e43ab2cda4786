"""How long cells will take, from cells like them that have run: never from anything but measured times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.design.names import DATASET_PARAM, DEVICE_PARAM, MODEL_PARAM, NPROC_PARAM, RECIPE_PARAM
from pipeline.design.plan import Plan
from pipeline.design.records import End, Progress
from pipeline.design.spec import Recipe, RunSpec
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.uri import resolve_uri, sqlite_file

if TYPE_CHECKING:
    from pipeline.execution.launcher import Launcher

SAMPLE_SECONDS = 10.0  # of training, from its first rate on
_Key = tuple[str, ...]
# what makes a run long or short beside its techniques: cells that agree in it have times of one order
_SIZE = ("epochs", "max_train_samples", "max_test_samples", "image_size", "eval_every", "num_threads")


@dataclass(frozen=True)
class Expected:
    """What some cells will take together.

    Attributes:
        seconds: of the cells of which something is known, one after the other.
        cells: all of them.
        unknown: those of which nothing is known.
        alike: those judged by others of their model and data set, whose techniques may take more or less.
    """

    seconds: float
    cells: int
    unknown: int
    alike: int


@dataclass
class Forecast:
    """Times of cells: the median over runs of the same cell with any seed, or else of its model and data set.

    Attributes:
        measured: runs that `learn` was given.
    """

    measured: int = 0
    _same: dict[_Key, list[float]] = field(default_factory=dict)
    _alike: dict[_Key, list[float]] = field(default_factory=dict)
    _supposed: dict[_Key, float] = field(default_factory=dict)
    _keys: dict[str, tuple[_Key, _Key]] = field(default_factory=dict)  # digest -> keys of the cell and of those alike

    def learn(self, params: Mapping[str, str], seconds: float) -> None:
        """Takes note of a finished run.

        Args:
            params: as the store has them.
            seconds: from its start to its end.
        """
        self.measured += 1
        self._same.setdefault(_cell(params), []).append(seconds)
        self._alike.setdefault(_pair(params), []).append(seconds)

    def suppose(self, spec: RunSpec, seconds: float) -> None:
        """Takes note of what a run that has begun to train will take at its present rate, in s."""
        self._supposed.setdefault(self._keys_of(spec)[1], seconds)

    def seconds(self, spec: RunSpec) -> float | None:
        """What a cell will take, in s; None where no cell like it has run."""
        same, alike = self._keys_of(spec)
        known = self._same.get(same) or self._alike.get(alike)
        return median(known) if known else self._supposed.get(alike)

    def _keys_of(self, spec: RunSpec) -> tuple[_Key, _Key]:
        if spec.digest not in self._keys:
            params = params_of(spec)
            self._keys[spec.digest] = (_cell(params), _pair(params))
        return self._keys[spec.digest]

    def of(self, specs: Iterable[RunSpec]) -> Expected:
        """What cells will take together."""
        listed = list(specs)
        known = [seconds for spec in listed if (seconds := self.seconds(spec)) is not None]
        same = sum(self._keys_of(spec)[0] in self._same for spec in listed)
        return Expected(sum(known), len(listed), len(listed) - len(known), len(known) - same)


def params_of(spec: RunSpec) -> dict[str, str]:
    """The params of a run that tell how long it takes, as the store has them."""
    return {
        MODEL_PARAM: spec.model,
        DATASET_PARAM: spec.dataset,
        DEVICE_PARAM: spec.device,
        NPROC_PARAM: str(spec.nproc),
        **{f"{RECIPE_PARAM}{name}": str(value) for name, value in spec.recipe.model_dump(mode="json").items()},
    }


def _pair(params: Mapping[str, str]) -> _Key:
    recipe = (params.get(f"{RECIPE_PARAM}{name}", "") for name in _SIZE)
    return (*(params.get(name, "") for name in (MODEL_PARAM, DATASET_PARAM, DEVICE_PARAM, NPROC_PARAM)), *recipe)


def _cell(params: Mapping[str, str]) -> _Key:
    # a field that an earlier version did not have was at what is the default now
    recipe = (params.get(f"{RECIPE_PARAM}{name}", default) for name, default in _defaults().items())
    return (*_pair(params), *recipe)


@cache
def _defaults() -> Mapping[str, str]:
    return {name: str(value) for name, value in Recipe().model_dump(mode="json").items()}


def forecast_of(plan: Plan, tracking_uri: str | None) -> Forecast:
    """What a local store knows of the times of a plan's models and data sets, in any study.

    Args:
        plan: the cells.
        tracking_uri: the flag's value; a server is not asked, which may be away and would have to be waited for.
    """
    forecast = Forecast()
    file = sqlite_file(resolve_uri(tracking_uri))
    wanted = {(run.spec.model, run.spec.dataset, run.spec.device) for run in plan.runs}
    rows: list[tuple[dict[str, Any], float]] = []
    if file is not None and file.is_file():
        rows = mlflow_sqlite.run_times(file, {model for model, _, _ in wanted})
    for params, seconds in rows:
        if (params.get(MODEL_PARAM), params.get(DATASET_PARAM), params.get(DEVICE_PARAM)) in wanted:
            forecast.learn(params, seconds)
    return forecast


def seconds_left(spec: RunSpec, record: Progress) -> float | None:
    """Training that a run has before it at its present rate, in s; None where it has none yet."""
    if not record.images_per_second > 0 or spec.probe is not None:
        return None
    updates = record.updates * (record.epochs - record.epoch + 1) - record.update
    return updates * spec.recipe.effective_batch / record.images_per_second


def sample(
    forecast: Forecast, specs: Iterable[RunSpec], launcher: Launcher, tell: Callable[[str], None]
) -> Iterator[str]:
    """Trains a cell of each model and data set of which nothing is known for `SAMPLE_SECONDS`; keeps its rate alone.

    Args:
        forecast: takes note of what the cells will take.
        specs: cells; of those alike the first one trains.
        launcher: ready to launch.
        tell: is told what trains.

    Yields:
        Why a cell has no rate, in a line.
    """
    tried: set[_Key] = set()
    for spec in specs:
        alike = _pair(params_of(spec))
        if alike in tried or forecast.seconds(spec) is not None:
            continue
        tried.add(alike)
        tell(f"training {spec.model} on {spec.dataset} for {SAMPLE_SECONDS:.0f} s, to see its rate")
        began, first, seconds = time.time(), math.inf, None
        with closing(launcher.launch(spec)) as records:
            for record in records:
                if isinstance(record, Progress) and (left := seconds_left(spec, record)) is not None:
                    seconds, first = record.time - began + left, min(first, record.time)
                elif isinstance(record, End) and record.outcome == "finished":
                    seconds = record.time - began
                elif isinstance(record, End):
                    yield f"{spec.model} on {spec.dataset}: {record.error or record.outcome}"
                if isinstance(record, Progress) and record.time - first >= SAMPLE_SECONDS:
                    break
        if seconds is not None:
            forecast.suppose(spec, seconds)


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes < 24 * 60 and minutes % 60 else "")


def forecast_text(expected: Expected, jobs: int) -> str:
    """Says what cells will take, in one line.

    Args:
        expected: of the cells.
        jobs: runs at once.
    """
    known = expected.cells - expected.unknown
    cells = f"{expected.cells} cell{'s' if expected.cells != 1 else ''}"
    if not known:
        return f"time for {cells}: not known yet, no run like them is in the store"
    about = f"about {duration(expected.seconds / jobs)}"
    alike = f" ({expected.alike} judged by other cells of their model and data set)" if expected.alike else ""
    if expected.unknown:
        return f"time for {known} of {cells}: {about}{alike}; nothing is known of the others"
    return f"time for {cells}: {about}{alike or ', from earlier runs of the same cells'}"
