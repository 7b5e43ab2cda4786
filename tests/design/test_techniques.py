"""Techniques are data: each changes the fields it owns, disjoint ones commute, overlapping ones are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import pipeline
from pipeline.design import techniques
from pipeline.design.plan import apply
from pipeline.design.spec import Device, Recipe
from pipeline.design.techniques import TECHNIQUES
from pipeline.errors import InputError

NAMES = list(TECHNIQUES)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
BASE = Recipe(batch_size=64)
PAIRS = list(itertools.combinations(NAMES, 2))
OVERLAPPING = [pair for pair in PAIRS if set(TECHNIQUES[pair[0]].owns) & set(TECHNIQUES[pair[1]].owns)]
COMPATIBLE = [pair for pair in PAIRS if pair not in OVERLAPPING]


def changed(before: Recipe, after: Recipe) -> set[str]:
    return {name for name in Recipe.model_fields if getattr(before, name) != getattr(after, name)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_changes_what_it_owns_and_nothing_else(name: str, device: Device) -> None:
    technique = TECHNIQUES[name]
    after = apply(BASE, (name,), device)
    assert changed(BASE, after) == set(technique.owns), "every field it owns is moved by its default level"
    assert after.digest != BASE.digest
    assert Recipe(batch_size=64) == BASE, "the baseline stays as it was"


@pytest.mark.parametrize(
    ("name", "level", "fields"),
    [
        ("ga", "", {"accumulation_steps": 2}),
        ("ga", "8", {"accumulation_steps": 8}),
        ("pm", "", {"pin_memory": True, "non_blocking": True}),
        ("ga_fixed", "", {"batch_size": 32, "accumulation_steps": 2}),
        ("ga_fixed", "4", {"batch_size": 16, "accumulation_steps": 4}),
        ("amp", "fp16", {"precision": "fp16"}),
        ("amp", "bf16", {"precision": "bf16"}),
        ("bf16", "", {"precision": "bf16"}),
        ("tf32", "", {"precision": "tf32"}),
        ("channels_last", "", {"channels_last": True}),
        ("compile", "", {"compile": "default"}),
        ("compile", "max-autotune", {"compile": "max-autotune"}),
        ("fused", "", {"fused_optimizer": True}),
        ("pin_only", "", {"pin_memory": True}),
        ("non_blocking_only", "", {"non_blocking": True}),
        ("device_data", "", {"input_pipeline": "device"}),
        ("cuda_graph", "", {"cuda_graph": True}),
        ("grad_checkpoint", "", {"grad_checkpoint": True}),
    ],
)
def test_levels(name: str, level: str, fields: dict[str, object]) -> None:
    tag = f"{name}={level}" if level else name
    assert apply(BASE, (tag,), "cpu") == BASE.model_copy(update=fields)


def test_amp_is_fp16_on_cuda_and_bf16_on_cpu() -> None:
    assert apply(BASE, ("amp",), "cuda").precision == "fp16"
    assert apply(BASE, ("amp",), "cpu").precision == "bf16"


def test_accumulation_multiplies_what_the_protocol_has() -> None:
    base = Recipe(batch_size=64, accumulation_steps=3)
    assert apply(base, ("ga=4",), "cpu").accumulation_steps == 12
    fixed = apply(base, ("ga_fixed=4",), "cpu")
    assert fixed.effective_batch == base.effective_batch and fixed.batch_size == 16


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pair", COMPATIBLE, ids="-".join)
def test_compatible_pairs_commute(pair: tuple[str, str], device: Device) -> None:
    techniques.check_disjoint(list(pair))
    first, second = pair
    both = apply(BASE, (first, second), device)
    assert both == apply(BASE, (second, first), device)
    owned = set(TECHNIQUES[first].owns) | set(TECHNIQUES[second].owns)
    assert changed(BASE, both) == owned


def test_there_are_pairs_of_both_kinds() -> None:
    assert ("ga", "amp") in COMPATIBLE and ("amp", "pm") in COMPATIBLE and ("ga", "pm") in COMPATIBLE
    expected = {("ga", "ga_fixed"), ("amp", "bf16"), ("amp", "tf32"), ("pm", "pin_only"), ("pm", "non_blocking_only")}
    assert expected <= set(OVERLAPPING)


@pytest.mark.parametrize("pair", OVERLAPPING, ids="-".join)
def test_overlapping_pairs_are_refused(pair: tuple[str, str]) -> None:
    shared = set(TECHNIQUES[pair[0]].owns) & set(TECHNIQUES[pair[1]].owns)
    with pytest.raises(InputError) as caught:
        techniques.check_disjoint(list(pair))
    message = str(caught.value)
    assert all(repr(name) in message for name in pair) and any(field in message for field in shared)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ga", "ga_fixed")])
def test_a_level_that_changes_nothing_is_refused(name: str) -> None:
    on = apply(BASE, (name,), "cpu")
    with pytest.raises(InputError, match=f"technique {name}: .* not allowed; allowed: a level that differs"):
        apply(on, (name,), "cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ga", "1"),
        ("ga", "0"),
        ("ga", "-2"),
        ("ga", "two"),
        ("ga", "2.5"),
        ("ga_fixed", "3"),
        ("ga_fixed", "128"),
        ("amp", "fp8"),
        ("amp", "fp32"),
        ("pm", "off"),
        ("compile", "fast"),
        ("compile", "off"),
        ("fused", "yes"),
    ],
)
def test_levels_that_are_refused(name: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        apply(BASE, (f"{name}={value}",), "cpu")
    message = str(caught.value)
    assert f"technique {name}" in message and repr(value) in message and "allowed: " in message


def test_owned_fields_exist_and_names_are_params() -> None:
    for name, technique in TECHNIQUES.items():
        assert technique.name == name and name.isidentifier() and set(technique.owns) <= set(Recipe.model_fields)
        assert set(technique.default) == set(DEVICES) and technique.allowed


@pytest.mark.parametrize("page", ["README.md", "docs/techniques.md"])
@pytest.mark.parametrize("name", NAMES)
def test_every_technique_is_documented(name: str, page: str) -> None:
    root = Path(pipeline.__file__).parent.parent
    rows = [line for line in (root / page).read_text().splitlines() if line.startswith("|")]
    mine = [row for row in rows if f"`{name}`" in row.split("|")[1]]
    assert len(mine) == 1
    for owned in TECHNIQUES[name].owns:
        assert owned in mine[0], "the row names the fields that it owns"


def test_unknown_technique_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'channel_last' is not allowed.*did you mean channels_last"):
        techniques.get("channel_last")
