"""Which configuration comes next: each once, none that needs more memory than what did not fit."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution

from pipeline.design.spec import Recipe
from pipeline.tuning.sampler import DistinctSampler, distributions
from pipeline.tuning.space import Config, Space, build_space
from tests.support.tuning import make_space

SPACE = make_space(batches=[16, 32, 64, 128], accumulations=[1, 2, 4, 8])


def proposals(space: Space, budget: int, seed: int, too_large: Sequence[Config] = (), count: int = 0) -> list[Config]:
    """What a study of equal values is given, one after the other."""
    taken: list[Config] = []
    sampler = DistinctSampler(space, budget, seed, lambda: set(taken), lambda: too_large, lambda: None)
    study = optuna.create_study(sampler=sampler)
    for _ in range(count or budget):
        trial = study.ask(distributions(space))
        taken.append(space.config(trial.params))
        study.tell(trial, 1.0)
    return taken


def test_sizes_are_searched_on_a_logarithmic_scale_and_levels_as_categories() -> None:
    space = build_space(Recipe(), "cpu", samples=4096, levels={"channels_last": ("on",)})
    made = distributions(space)
    assert isinstance(made["batch_size"], IntDistribution) and made["batch_size"].log
    assert made["channels_last"] == CategoricalDistribution(("off", "on"))


def test_a_space_within_the_budget_is_enumerated() -> None:
    found = proposals(SPACE, len(SPACE.configs), seed=1)
    assert sorted(found) == sorted(SPACE.configs)
    assert found != sorted(SPACE.configs), "in a random order"


def test_no_configuration_comes_twice_in_a_larger_space() -> None:
    found = proposals(SPACE, 12, seed=2)
    assert len(set(found)) == 12
    assert found == proposals(SPACE, 12, seed=2) != proposals(SPACE, 12, seed=3), "the seed alone decides"


def test_what_needs_the_memory_of_one_that_did_not_fit_is_left_out() -> None:
    large = Config(64, 1)
    found = proposals(SPACE, 40, seed=1, too_large=[large], count=8)
    assert {config.batch_size for config in found} == {16, 32}
