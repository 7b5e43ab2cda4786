"""The search space: sizes that hardware likes, memory order, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.design.spec import Recipe
from pipeline.errors import InputError
from pipeline.tuning import space as spaces
from pipeline.tuning.space import Config


@given(st.integers(8, 100_000))
def test_batch_sizes_are_powers_of_two_and_multiples_of_eight(largest: int) -> None:
    found = spaces.batch_sizes(largest)
    assert all(size % 8 == 0 and size <= largest for size in found) and list(found) == sorted(set(found))
    powers = {2**power for power in range(3, 18) if 2**power <= largest}
    assert powers <= set(found) and len(found) <= 4 * len(powers)


@given(st.integers(1, 60_000), st.integers(1, 2000), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_no_effective_batch_is_larger_than_the_training_set(samples: int, batch: int, steps: int) -> None:
    recipe = Recipe(batch_size=batch, accumulation_steps=steps)
    try:
        space = spaces.build_space(recipe, "cpu", samples=samples)
    except InputError:
        assert samples < 8
        return
    assert all(config.effective_batch <= samples for config in space.configs)
    assert (space.baseline in space.configs) == (batch * steps <= samples)
    assert len(set(space.configs)) == len(space.configs)


@given(st.integers(1, 512))
@settings(max_examples=60, deadline=None)
def test_an_effective_batch_fixes_the_product(product: int) -> None:
    space = spaces.build_space(Recipe(batch_size=64), "cpu", samples=50_000, effective_batch=product)
    assert space.configs and all(config.effective_batch == product for config in space.configs)
    assert all(space.recipe_of(config).effective_batch == product for config in space.configs)


def test_levels_are_crossed_and_named_as_in_a_grid() -> None:
    levels = {"amp": ("fp16", "bf16"), "pm": ("on",)}
    space = spaces.build_space(Recipe(), "cuda", samples=4096, levels=levels, batches=[64], accumulations=[1, 2])
    assert len(space.configs) == 2 * 3 * 2
    config = Config(64, 2, (("amp", "bf16"), ("pm", "on")))
    assert config in space.configs and space.setting(config) == ("amp=bf16", "pm")
    recipe = space.recipe_of(config)
    assert (recipe.precision, recipe.pin_memory, recipe.accumulation_steps) == ("bf16", True, 2)
    assert space.setting(Config(64, 2, (("amp", "fp16"), ("pm", "off")))) == ("amp",)
    assert space.config(config.params) == config


@pytest.mark.parametrize(
    ("settings_", "names"),
    [
        ({"levels": {"ga": ("2",)}}, "'ga'"),
        ({"levels": {"ga_fixed": ("2",)}}, "'ga_fixed'"),
        ({"levels": {"amp": ("fp16",), "bf16": ("on",)}}, "precision"),
        ({"levels": {"cuda_graph": ("on",)}}, "cuda_graph"),
        ({"effective_batch": 7919, "batches": [64]}, "--effective-batch 7919"),
        ({"batches": [5000]}, "--batch-sizes"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(settings_: dict[str, Any], names: str) -> None:
    with pytest.raises(InputError, match="allowed") as caught:
        spaces.build_space(Recipe(), "cpu", samples=4096, **settings_)
    assert names in str(caught.value) and "\n" not in str(caught.value)


CONFIGS = st.builds(
    Config,
    st.sampled_from([8, 16, 64]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([(("amp", "off"),), (("amp", "on"),)]),
)


@given(CONFIGS, CONFIGS, CONFIGS)
def test_distance_is_a_metric_and_memory_order_is_partial(a: Config, b: Config, c: Config) -> None:
    assert a.distance(b) == b.distance(a) and (a.distance(b) == 0) == (a == b)
    assert a.distance(c) <= a.distance(b) + b.distance(c) + 1e-12
    assert a.at_least(a) and (not (a.at_least(b) and b.at_least(a)) or a == b)
    assert not (a.at_least(b) and b.at_least(c)) or a.at_least(c)


def test_the_digest_tells_spaces_apart() -> None:
    made = [
        spaces.build_space(Recipe(), "cpu", samples=4096),
        spaces.build_space(Recipe(), "cuda", samples=4096),
        spaces.build_space(Recipe(epochs=2), "cpu", samples=4096),
        spaces.build_space(Recipe(), "cpu", samples=4095),
        spaces.build_space(Recipe(), "cpu", samples=4096, levels={"channels_last": ("on",)}),
    ]
    assert len({space.digest for space in made}) == len(made)
