"""What a tuning searches: micro-batch, accumulation steps, and levels of techniques, as a finite set.

All configurations are listed: a space of batch sizes that hardware likes is small, and a list can be claimed,
counted and finished, which a continuous range cannot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.design import plan, requirements, techniques
from pipeline.design.spec import Device, Recipe, content_digest
from pipeline.errors import InputError, not_allowed

OFF_LEVEL = "off"
ACCUMULATIONS = (1, 2, 4, 8, 16, 32, 64)
LARGEST_BATCH = 4096
SEARCHED_FIELDS = ("batch_size", "accumulation_steps")
MAX_CONFIGS = 100_000
CATEGORY_DISTANCE = 2.0  # two settings of a technique are as far apart as two doublings of a size


@dataclass(frozen=True, order=True)
class Config:
    """One configuration: sizes, and (technique, level) for every searched technique, `off` included."""

    batch_size: int
    accumulation_steps: int
    levels: tuple[tuple[str, str], ...] = ()

    @property
    def params(self) -> dict[str, int | str]:
        """Its values by name, as Optuna keeps them."""
        return {
            "batch_size": self.batch_size,
            "accumulation_steps": self.accumulation_steps,
            **dict(self.levels),
        }

    @property
    def effective_batch(self) -> int:
        """Samples of an optimizer update."""
        return self.batch_size * self.accumulation_steps

    @property
    def on(self) -> tuple[tuple[str, str], ...]:
        """The techniques that are on, with their levels."""
        return tuple((name, level) for name, level in self.levels if level != OFF_LEVEL)

    @property
    def label(self) -> str:
        """In short: `b64xa2`, with the techniques that are on behind it."""
        return "+".join([f"b{self.batch_size}xa{self.accumulation_steps}", *(name + _value(v) for name, v in self.on)])

    def distance(self, other: Config) -> float:
        """How far apart: doublings of the sizes (throughput is smooth in their logarithms), and differing levels."""
        return (
            abs(math.log2(self.batch_size / other.batch_size))
            + abs(math.log2(self.accumulation_steps / other.accumulation_steps))
            + CATEGORY_DISTANCE * sum(a != b for a, b in zip(self.levels, other.levels, strict=True))
        )

    def at_least(self, other: Config) -> bool:
        """Whether it needs at least the memory of `other`: the same techniques, and no size is smaller."""
        return (
            self.levels == other.levels
            and self.batch_size >= other.batch_size
            and self.accumulation_steps >= other.accumulation_steps
        )


def _value(level: str) -> str:
    return "" if level == "on" else level


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Powers of two, and between them, from 16 on, the multiples of 8 at most a quarter of an octave apart.

    All multiples of 8 would be a hundred neighbours that no measurement tells apart.
    """
    found = {2**power for power in range(3, largest.bit_length()) if 2**power <= largest}
    for power in range(4, largest.bit_length()):
        step = max(8, 2**power // 4)
        found |= {size for size in range(2**power, 2 ** (power + 1), step) if size <= largest}
    return tuple(sorted(found)) or (largest,)


@dataclass(frozen=True)
class Space:
    """The configurations of one tuning, and the recipe that they vary.

    Attributes:
        recipe: the baseline recipe.
        device: where it runs.
        baseline: the recipe's own configuration; it need not be among the others.
        configs: all configurations, sorted.
        levels: technique -> its levels, `off` first.
    """

    recipe: Recipe
    device: Device
    baseline: Config
    configs: tuple[Config, ...]
    levels: Mapping[str, tuple[str, ...]]

    @cached_property
    def digest(self) -> str:
        """Identity: the recipe, the device and the list of configurations."""
        return content_digest([self.recipe.digest, self.device, [sorted(c.params.items()) for c in self.configs]])

    def values(self, name: str) -> tuple[int | str, ...]:
        """The values of a parameter that occur, sorted (levels: `off` first)."""
        if name in self.levels:
            return self.levels[name]
        return tuple(sorted({config.params[name] for config in self.configs}, key=int))

    def settings(self) -> list[Config]:
        """The baseline's sizes with every combination of levels that occurs."""
        levels = sorted({config.levels for config in self.configs})
        return [Config(self.baseline.batch_size, self.baseline.accumulation_steps, found) for found in levels]

    def config(self, params: Mapping[str, object]) -> Config:
        """The configuration with these values (Optuna's `trial.params`)."""
        levels = tuple((name, str(params[name])) for name in self.levels)
        return Config(int(str(params["batch_size"])), int(str(params["accumulation_steps"])), levels)

    def setting(self, config: Config) -> tuple[str, ...]:
        """The techniques that are on, as a `RunSpec` names them."""
        return _setting(config, self.device)

    def recipe_of(self, config: Config) -> Recipe:
        """The baseline recipe with this configuration in it."""
        return _applied(self.recipe, config, self.device)


def _setting(config: Config, device: Device) -> tuple[str, ...]:
    table = {name: techniques.get(name).default[device] for name, _ in config.levels}
    return tuple(name if level in (table[name], "on") else f"{name}={level}" for name, level in config.on)


def _applied(recipe: Recipe, config: Config, device: Device) -> Recipe:
    sizes = {"batch_size": config.batch_size, "accumulation_steps": config.accumulation_steps}
    return plan.apply(recipe.model_copy(update=sizes), _setting(config, device), device)


def build_space(
    recipe: Recipe,
    device: Device,
    *,
    samples: int | None,
    levels: Mapping[str, Sequence[str]] | None = None,
    batches: Sequence[int] | None = None,
    accumulations: Sequence[int] | None = None,
    effective_batch: int | None = None,
) -> Space:
    """Lists the configurations.

    Args:
        recipe: the baseline.
        device: where it runs.
        samples: training images of an epoch, None when unknown; no effective batch is larger.
        levels: technique -> on-levels that are searched (`off` is added).
        batches: micro-batches, instead of `batch_sizes`.
        accumulations: instead of `ACCUMULATIONS`.
        effective_batch: keeps only configurations with this product.

    Raises:
        InputError: a technique owns a searched field or cannot be applied, or no configuration is left.
    """
    found = {name: (OFF_LEVEL, *values) for name, values in (levels or {}).items()}
    _check_levels(recipe, device, found)
    limit = min(samples or LARGEST_BATCH, LARGEST_BATCH)
    sizes = sorted(set(batches or {*batch_sizes(limit), *_divisors(effective_batch, limit)}))
    steps = sorted(set(accumulations or {*ACCUMULATIONS, recipe.accumulation_steps}))
    none = tuple((name, OFF_LEVEL) for name in found)
    baseline = Config(recipe.batch_size, recipe.accumulation_steps, none)
    if not batches:
        sizes = sorted({*sizes, recipe.batch_size})
    if len(sizes) * len(steps) * math.prod(map(len, found.values())) > 10 * MAX_CONFIGS:  # before it is multiplied out
        raise InputError(f"search space: more than {MAX_CONFIGS} configurations are not allowed; allowed: fewer levels")
    crossed = itertools.product(*([(name, level) for level in values] for name, values in found.items()))
    combinations = [combination for combination in crossed if _can_run(recipe, device, combination)]
    if len(sizes) * len(steps) * len(combinations) > MAX_CONFIGS:
        raise InputError(f"search space: more than {MAX_CONFIGS} configurations are not allowed; allowed: fewer levels")
    configs = [
        Config(size, step, combination)
        for size, step, combination in itertools.product(sizes, steps, combinations)
        if (samples is None or size * step <= samples) and (effective_batch is None or size * step == effective_batch)
    ]
    if not configs:
        what = f"--effective-batch {effective_batch}" if effective_batch else "--batch-sizes"
        raise InputError(
            f"{what}: no configuration is left; allowed: an effective batch of at most {samples} images that is a "
            f"product of a batch size ({_some(sizes)}) and accumulation steps ({_some(steps)})"
        )
    return Space(recipe, device, baseline, tuple(sorted(configs)), found)


def _divisors(effective_batch: int | None, limit: int) -> list[int]:
    """Micro-batches that make an effective batch with one of the accumulation steps."""
    if effective_batch is None:
        return []
    return [effective_batch // a for a in ACCUMULATIONS if effective_batch % a == 0 and effective_batch // a <= limit]


def _some(values: Sequence[int]) -> str:
    listed = [str(value) for value in values]
    return ", ".join(listed if len(listed) <= 8 else [*listed[:4], "...", *listed[-2:]])


def _check_levels(recipe: Recipe, device: Device, levels: Mapping[str, tuple[str, ...]]) -> None:
    techniques.check_disjoint(list(levels))
    for name, values in levels.items():
        technique = techniques.get(name)
        if set(technique.owns) & set(SEARCHED_FIELDS):
            raise not_allowed(
                "--techniques", name, f"techniques that own other fields than {' and '.join(SEARCHED_FIELDS)}"
            )
        if device not in technique.devices:
            raise not_allowed("--techniques", name, f"techniques that run on {device}")
        for level in values[1:]:
            requirements.check_recipe(technique.apply(recipe, level), device)


def _can_run(recipe: Recipe, device: Device, combination: Sequence[tuple[str, str]]) -> bool:
    """Whether these settings may be combined; each alone has been checked before."""
    config = Config(recipe.batch_size, recipe.accumulation_steps, tuple(combination))
    try:
        requirements.check_recipe(_applied(recipe, config, device), device)
    except InputError:
        return False
    return True
