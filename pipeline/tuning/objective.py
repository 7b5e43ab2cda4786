"""What is tuned for: which metric, which direction, and how long a trial is measured for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.design.names import GPU_PEAK_ALLOCATED, HOST_PEAK_RSS, IMAGES_PER_SECOND, TARGET_SECONDS, VAL_ACCURACY
from pipeline.design.records import End
from pipeline.design.spec import Probe
from pipeline.errors import InputError, not_allowed

MEMORY_WINDOWS = 12
MEMORY_METRICS = (GPU_PEAK_ALLOCATED, HOST_PEAK_RSS)


@dataclass(frozen=True)
class Quantity:
    """One measured quantity.

    Attributes:
        name: in words.
        metrics: its metric; the first that a run has.
        higher_is_better: its direction.
        unit: of a value.
        better: what a better value is called.
    """

    name: str
    metrics: tuple[str, ...]
    higher_is_better: bool
    unit: str
    better: str

    def value(self, values: Mapping[str, float]) -> float | None:
        """The value among a run's metrics; None where the run has none."""
        return next((values[metric] for metric in self.metrics if metric in values), None)


THROUGHPUT = Quantity("throughput", (IMAGES_PER_SECOND,), True, "images/s", "faster")
TIME_TO_TARGET = Quantity("time to target", (TARGET_SECONDS,), False, "s", "faster")
MEMORY = Quantity("peak memory", MEMORY_METRICS, False, "MiB", "smaller")
VALIDATION_ACCURACY = Quantity("validation accuracy", (VAL_ACCURACY,), True, "", "more accurate")


@dataclass(frozen=True)
class Objective:
    """One `--objective`: its responses (the first decides), and whether bad trials are stopped early."""

    name: str
    responses: tuple[Quantity, ...]
    prunes: bool = False

    @property
    def directions(self) -> tuple[str, ...]:
        """As Optuna names them."""
        return tuple("maximize" if response.higher_is_better else "minimize" for response in self.responses)

    def values(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """The values of all responses; None when one is missing."""
        found = [response.value(metrics) for response in self.responses]
        known = tuple(value for value in found if value is not None)
        return known if len(known) == len(found) else None


OBJECTIVES: Mapping[str, Objective] = {
    found.name: found
    for found in (
        Objective("throughput", (THROUGHPUT,)),
        Objective("time", (TIME_TO_TARGET,)),
        Objective("memory", (MEMORY,)),
        Objective("accuracy", (VALIDATION_ACCURACY,), prunes=True),
        Objective("pareto", (THROUGHPUT, MEMORY, VALIDATION_ACCURACY)),
    )
}


@dataclass(frozen=True)
class Limits:
    """How long one trial is measured.

    Attributes:
        seconds: of training at most, for throughput and memory.
        interval: width of the interval of images/s at which a throughput trial ends.
        target_accuracy: for `time`.
        budget_samples, budget_seconds: for time, accuracy and pareto; without them, the recipe's epochs.
    """

    seconds: float
    interval: float
    target_accuracy: float | None = None
    budget_samples: int | None = None
    budget_seconds: float | None = None


def probe(objective: Objective, limits: Limits) -> Probe:
    """How a trial of this objective is measured.

    Raises:
        InputError: a limit is missing or does not belong to the objective.
    """
    given = limits.budget_samples is not None or limits.budget_seconds is not None
    if objective.name == "time" and limits.target_accuracy is None:
        raise InputError("--target-accuracy: is missing; allowed: a fraction up to 1 with --objective time")
    if objective.name != "time" and limits.target_accuracy is not None:
        raise not_allowed("--target-accuracy", limits.target_accuracy, "only with --objective time")
    if objective.name in ("throughput", "memory") and given:
        raise InputError(
            f"--budget-samples, --budget-seconds: not allowed with --objective {objective.name}; allowed: with time, "
            "accuracy and pareto"
        )
    if objective.name == "throughput":
        return Probe(interval=limits.interval, max_seconds=limits.seconds)
    if objective.name == "memory":
        return Probe(max_windows=MEMORY_WINDOWS, max_seconds=limits.seconds)
    return Probe(
        max_samples=limits.budget_samples,
        max_seconds=limits.budget_seconds,
        target_accuracy=limits.target_accuracy,
        validate_epochs=True,
    )


def constraints(values: Mapping[str, float], end: End, probe: Probe, memory_limit: float | None) -> dict[str, float]:
    """Optuna's constraints of a finished or out-of-memory trial: feasible where all are zero or less.

    Args:
        values: the trial's metrics.
        end: how it ended.
        probe: how it was measured.
        memory_limit: in MiB.
    """
    found = {"memory": 1.0 if end.outcome == "oom" else -1.0}
    peak = MEMORY.value(values)
    if memory_limit is not None and peak is not None and end.outcome != "oom":
        found["memory"] = peak / memory_limit - 1.0
    if probe.target_accuracy is not None:
        reached = TARGET_SECONDS in values
        found["target"] = 0.0 if reached else max(probe.target_accuracy - values.get(VAL_ACCURACY, 0.0), 1e-6)
    return found
