"""A simulated device behind a launcher, and the small parts that a search needs besides."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from pipeline.design.plan import Plan
from pipeline.design.records import End, Metrics, Outcome, Record
from pipeline.design.spec import Probe, Recipe, RunSpec
from pipeline.design.study import Study
from pipeline.execution.listener import Listener
from pipeline.tuning import space as spaces
from pipeline.tuning.objective import OBJECTIVES
from pipeline.tuning.search import Search, TrialTemplate
from pipeline.tuning.space import Config, Space
from pipeline.tuning.trials import SharedStudy
from tests.support.fakes import FakeRecorder, NullListener

optuna.logging.set_verbosity(optuna.logging.ERROR)
Surface = Callable[[int, int], float]


def saturating(batch: int, steps: int) -> float:
    """Launch overhead and optimizer updates are paid for by size: the optimum lies at the memory limit."""
    micro = 0.004 + batch / 20000 * (1 + 0.3 * math.exp(-batch / 64))
    return steps * batch / (steps * micro + 0.003)


def cliff(batch: int, steps: int) -> float:
    """Beyond a cache's size an image takes longer."""
    micro = 0.003 + batch / 15000 * (1 + 0.25 / (1 + math.exp(-(math.log2(batch) - 8.2) * 4)))
    return steps * batch / (steps * micro + 0.008) * (1 - 0.02 * max(0.0, math.log2(steps) - 3))


def peak(batch: int, steps: int) -> float:
    """A narrow optimum inside the space."""
    return 10000 * math.exp(-0.25 * (math.log2(batch) - 6.6) ** 2 - 0.12 * (math.log2(steps) - 3) ** 2)


@dataclass
class Device:
    """A launcher whose runs take no time: throughput of a surface with noise, and a memory limit.

    Attributes:
        surface: images/s of (micro-batch, accumulation steps).
        largest: micro-batches above it run out of memory.
        noise: standard deviation of a measurement, as a share.
        seed: of the noise.
        fails: config labels -> how often they fail first.
        accuracy: epoch, spec -> validation accuracy of a record, for objectives that look at it.
    """

    surface: Surface = peak
    largest: int = 700
    noise: float = 0.01
    seed: int = 0
    jobs: int = 1
    fails: dict[int, int] = field(default_factory=dict)
    accuracy: Callable[[int, RunSpec], float] | None = None
    launched: list[RunSpec] = field(default_factory=list)
    closed: int = 0
    cancelled: bool = False

    def work_dir(self, spec: RunSpec) -> Path:
        """Nothing is written."""
        return Path("nowhere", spec.digest)

    def start(self) -> None:
        """Nothing is needed."""

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        """Nothing can be wrong."""

    def cancel(self) -> None:
        """Interrupts whatever has not ended yet."""
        self.cancelled = True

    def kill(self) -> None:
        """Nothing runs for long."""

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        """One run."""
        self.launched.append(spec)
        recipe = spec.recipe
        outcome: Outcome = "interrupted" if self.cancelled else "finished"
        if self.fails.get(recipe.batch_size, 0) > 0:
            self.fails[recipe.batch_size] -= 1
            yield End(time=time.time(), outcome="failed", error="injected")
            return
        if recipe.batch_size > self.largest:
            yield End(time=time.time(), outcome="oom", error="out of memory")
            return
        source = random.Random(f"{self.seed}/{spec.digest}")
        try:
            for epoch in range(1, (recipe.epochs if self.accuracy else 0) + 1):
                assert self.accuracy is not None
                yield Metrics(time=time.time(), step=epoch, values={"val/accuracy": self.accuracy(epoch, spec)})
        except GeneratorExit:
            self.closed += 1
            raise
        rate = self.surface(recipe.batch_size, recipe.accumulation_steps) * math.exp(source.gauss(0, self.noise))
        memory = 100.0 + recipe.batch_size
        values = {"throughput/images_per_second": rate, "memory/gpu_peak_allocated_mib": memory}
        yield Metrics(time=time.time(), values=values)
        yield End(time=time.time(), outcome=outcome)


def make_space(**changes: Any) -> Space:
    """A device's space, micro-batches up to 2048; 188 configurations unless changed."""
    settings: dict[str, Any] = {"samples": 50_000, "batches": spaces.batch_sizes(2048), **changes}
    return spaces.build_space(Recipe(batch_size=64), "cuda", **settings)


def make_task(objective: str = "throughput", memory_limit: float | None = None, **recipe: Any) -> TrialTemplate:
    """What is measured, with a probe that the simulated device does not look at."""
    probe = Probe(max_windows=10, validate_epochs=objective != "throughput")
    spec = RunSpec(model="test_resnet", dataset="digits", device="cuda", recipe=Recipe(batch_size=64, **recipe))
    plan = Plan(Study(name="simulated", models={"test_resnet": {}}, datasets=("digits",)), "cuda", ())
    return TrialTemplate(spec, probe, OBJECTIVES[objective], memory_limit, plan)


def make_ledger(
    space: Space, folder: Path, budget: int, seed: int = 0, objective: str = "throughput", **settings: Any
) -> SharedStudy:
    """A ledger on a study in memory, or on the one that is given."""
    study = settings.pop("study", None)
    if study is None:
        # its name decides which trials Hyperband puts into which bracket: a random one gives a random search
        study = optuna.create_study(
            study_name="simulated",
            directions=list(OBJECTIVES[objective].directions),
            pruner=settings.pop("pruner", None),
        )
    return SharedStudy(study, space, budget=budget, retries=settings.get("retries", 2), seed=seed, lock=folder / "lock")


def search(
    device: Device,
    ledger: SharedStudy,
    task: TrialTemplate | None = None,
    recorder: FakeRecorder | None = None,
    listener: Listener | None = None,
) -> FakeRecorder:
    """Runs a search to its end."""
    recorder = recorder or FakeRecorder()
    running = Search(task or make_task(), ledger, device, recorder, listener or NullListener())
    running.run()
    assert running.broken is None
    return recorder


def best_of(space: Space, device: Device) -> float:
    """The true optimum of the feasible region."""
    return max(device.surface(c.batch_size, c.accumulation_steps) for c in feasible(space, device))


def feasible(space: Space, device: Device) -> list[Config]:
    """Configurations that fit."""
    return [config for config in space.configs if config.batch_size <= device.largest]
