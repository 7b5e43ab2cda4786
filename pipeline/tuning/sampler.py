"""Which configuration comes next. The one module besides `storage` that needs Optuna when it is imported.

A space that fits into the budget is enumerated in a seeded random order. A larger one starts with points far from
each other and goes on with a tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS 24), whose proposal is
moved to the nearest configuration that nobody has claimed; every third trial is the nearest free neighbour of the
best one so far, since throughput is smooth in the logarithms of the sizes. No configuration is proposed twice, and
none that needs at least the memory of one that did not fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from pipeline.tuning.space import Config, Space

STARTUP = 8
CLIMB_EVERY = 3


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions: sizes on a logarithmic scale, levels as categories."""
    found: dict[str, BaseDistribution] = {}
    for name in ("batch_size", "accumulation_steps"):
        sizes = [int(value) for value in space.values(name)]
        found[name] = IntDistribution(sizes[0], sizes[-1], log=True)
    for name, levels in space.levels.items():
        found[name] = CategoricalDistribution(levels)
    return found


class DistinctSampler(optuna.samplers.BaseSampler):
    """Proposes configurations of a space, each once.

    The random numbers of a trial depend on the seed and the trial's number alone, so that a study that is resumed
    goes on as it would have without the break.

    Args:
        space: the configurations.
        budget: trials of the study; a space that is no larger is enumerated.
        seed: of all choices.
        claimed: configurations that have been taken, in the whole study.
        too_large: configurations that did not fit into memory.
        best: the best feasible configuration so far; None when there is none, or several objectives.
    """

    def __init__(
        self,
        space: Space,
        budget: int,
        seed: int,
        claimed: Callable[[], set[Config]],
        too_large: Callable[[], Sequence[Config]],
        best: Callable[[], Config | None],
    ) -> None:
        self._space = space
        self._seed = seed
        self._claimed = claimed
        self._too_large = too_large
        self._best = best
        self.enumerates = len(space.configs) <= budget
        self._startup = min(STARTUP + 2 * len(space.levels), max(budget // 4, 3))

    def free(self) -> list[Config]:
        """Configurations that may still be proposed."""
        taken, large = self._claimed(), self._too_large()
        return [
            config
            for config in self._space.configs
            if config not in taken and not any(config.at_least(other) for other in large)
        ]

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """All parameters are chosen together."""
        return distributions(self._space)

    def sample_relative(
        self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Chooses a configuration; any one when none is left (its trial will then be withdrawn)."""
        source = random.Random(f"{self._seed}/{trial.number}")
        free = self.free()
        if not free:
            return dict(self._space.configs[0].params)
        if self.enumerates:
            order = list(self._space.configs)
            random.Random(self._seed).shuffle(order)
            left = set(free)
            return dict(next(config for config in order if config in left).params)
        taken = self._claimed() & set(self._space.configs)
        if len(taken) < self._startup:
            return dict(_farthest(free, taken, source).params)
        best = self._best() if len(taken) % CLIMB_EVERY == 0 else None
        wanted = best or self._proposal(study, trial, search_space, source)
        return dict(_nearest(free, wanted, source).params)

    def _proposal(
        self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution], source: random.Random
    ) -> Config:
        several = {name: found for name, found in search_space.items() if not found.single()}
        tpe = optuna.samplers.TPESampler(
            seed=source.randrange(2**31), multivariate=True, n_startup_trials=1, n_ei_candidates=64
        )
        proposed = tpe.sample_relative(study, trial, several)
        if not proposed:
            return source.choice(self._space.configs)
        return self._space.config({**self._space.configs[0].params, **proposed})

    def sample_independent(self, *arguments: Any, **settings: Any) -> Any:
        """Never needed: every parameter is chosen above.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"no parameter of this space: {arguments[2:]} {settings}")


def _farthest(free: Sequence[Config], taken: set[Config], source: random.Random) -> Config:
    """The configuration whose nearest taken neighbour is farthest away (a maximin design), ties by chance."""
    shuffled = source.sample(list(free), len(free))
    if not taken:
        return shuffled[0]
    return max(shuffled, key=lambda config: min(config.distance(other) for other in taken))


def _nearest(free: Sequence[Config], wanted: Config, source: random.Random) -> Config:
    shuffled = source.sample(list(free), len(free))
    return min(shuffled, key=wanted.distance)
