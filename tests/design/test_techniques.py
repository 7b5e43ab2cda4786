"""Techniques are data: each changes the fields it owns, disjoint ones commute, overlapping ones are refused."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import get_args

import pytest

import pipeline
from pipeline.design import techniques
from pipeline.design.names import BUDGET_PHASES, LAUNCHES
from pipeline.design.plan import apply
from pipeline.design.spec import Device, Recipe
from pipeline.design.techniques import DEVICES, TECHNIQUES, Preserves
from pipeline.errors import InputError

NAMES = list(TECHNIQUES)
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


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_whole(name: str) -> None:
    technique = TECHNIQUES[name]
    assert technique.devices >= technique.inert_on, "it is inert where it can run"
    assert technique.saves == (LAUNCHES,) or set(technique.saves) <= set(BUDGET_PHASES)
    assert technique.preserves in get_args(Preserves)
    assert technique.description and not technique.description.endswith(".") and "|" not in technique.description
    if technique.partly is not None:
        levels = [technique.default[device] for device in DEVICES]
        assert all(0 < technique.partly.part(level) <= 1 for level in levels) and technique.partly.by


def test_requirements_in_words() -> None:
    assert TECHNIQUES["ga"].needs() == []
    assert TECHNIQUES["bf16"].needs() == ["on cuda: capability 8.0"]
    assert TECHNIQUES["amp"].needs() == ["precision=bf16 on cuda: capability 8.0"], "not with its level on CUDA, fp16"
    assert TECHNIQUES["compile"].needs() == ["on cuda: capability 7.0", "a C++ compiler (on cuda: Triton too)"]
    assert TECHNIQUES["cuda_graph"].needs() == [
        "cuda",
        "not with compile=reduce-overhead/max-autotune",
        "not with grad_checkpoint",
    ]


# what is spelled like a technique and is none
SPELLED_ALIKE = {
    "analysis/peak_flops.py": {"tf32", "bf16"},  # values of the recipe field `precision`
    "analysis/time_budget.py": {"bf16"},  # likewise
    "analysis/paper/audit.py": {"ga", "amp", "pm"},  # the claims of one paper are about these three
    "tracking/provenance.py": {"bf16"},  # part of the names of a processor's instructions
    "tuning/result.py": {"ga"},  # a key of the tuning's document: whether accumulation pays
}


@pytest.mark.parametrize("room", ["analysis", "commands", "execution", "tracking", "tuning"])
def test_techniques_are_listed_nowhere_else(room: str) -> None:
    root = Path(pipeline.__file__).parent
    spelled = {}
    for path in sorted((root / room).rglob("*.py")):
        constants = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        words = {word for text in constants if isinstance(text, str) for word in text.split(",")} & set(NAMES)
        file = path.relative_to(root).as_posix()
        spelled[file] = words - SPELLED_ALIKE.get(file, set())
    assert {file: words for file, words in spelled.items() if words} == {}


def test_unknown_technique_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'channel_last' is not allowed.*did you mean channels_last"):
        techniques.get("channel_last")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *(("AMP", "amp"), ("gradient_accumulation", "ga"), ("mixed-precision", "amp"), ("nhwc", "channels_last")),
        *(("pin_memory", "pm"), ("torch_compile", "compile"), ("checkpointing", "grad_checkpoint")),
    ],
)
def test_a_technique_is_known_by_other_names(name: str, wanted: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean {wanted}\?"):
        techniques.get(name)


def test_what_nobody_calls_a_technique_has_no_suggestion() -> None:
    with pytest.raises(InputError) as refused:
        techniques.get("qq")
    assert "did you mean" not in str(refused.value)
