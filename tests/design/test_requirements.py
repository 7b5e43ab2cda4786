"""What a setting needs: refused in one line, before anything runs, whichever way it was set."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import doctor
from pipeline.design import requirements
from pipeline.design.plan import apply
from pipeline.design.records import Job
from pipeline.design.requirements import REQUIREMENTS, Machine, check_machine, check_recipe
from pipeline.design.spec import Recipe
from pipeline.design.techniques import TECHNIQUES
from pipeline.errors import InputError
from pipeline.training import preflight
from tests.support.ablate import Result
from tests.support.training import small_spec

ABLE = Machine((9, 0), "/usr/bin/g++", triton=True)
OFF = Recipe()


@pytest.fixture
def grid(ablate: Callable[..., Result]) -> Callable[..., Result]:
    """Plans a grid in an empty folder."""
    return partial(ablate, "grid", "--models", "test_resnet", "--datasets", "digits", "--dry-run")


def test_every_requirement_belongs_to_a_technique_that_sets_its_field() -> None:
    listed = {id(need) for technique in TECHNIQUES.values() for need in technique.requires}
    assert listed == {id(need) for need in REQUIREMENTS}
    for technique in TECHNIQUES.values():
        for need in technique.requires:
            assert need.setting in technique.owns and need.why
    for need in REQUIREMENTS:
        assert not need.needed_by(OFF), "the baseline needs nothing"
        assert {need.setting, *need.excludes} <= set(Recipe.model_fields)
        for field, values in need.excludes.items():
            assert getattr(OFF, field) not in values


def test_devices_follow_from_the_requirements() -> None:
    assert TECHNIQUES["cuda_graph"].devices == {"cuda"}
    assert all(technique.devices == {"cpu", "cuda"} for name, technique in TECHNIQUES.items() if name != "cuda_graph")


@pytest.mark.parametrize("words", [("--techniques", "cuda_graph"), ("--technique", "cuda_graph=on")])
def test_cuda_graph_is_refused_on_a_cpu(words: tuple[str, ...], grid: Any) -> None:
    line = grid("--device", "cpu", *words).line
    assert "'cuda_graph' is not allowed" in line and "run on cpu" in line and "CUDA" in line


def test_a_setting_is_checked_like_a_technique(grid: Any) -> None:
    line = grid("--device", "cpu", "--techniques", "ga", "--set", "cuda_graph=true").line
    assert "recipe.cuda_graph: True is not allowed on cpu; allowed: cuda" in line


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"cuda_graph": True, "compile": "reduce-overhead"}, "compile=reduce-overhead"),
        ({"cuda_graph": True, "compile": "max-autotune"}, "compile=max-autotune"),
        ({"cuda_graph": True, "grad_checkpoint": True}, "grad_checkpoint=True"),
        ({"grad_checkpoint": True, "compile": "default"}, "compile=default"),
    ],
)
def test_pairs_that_cannot_run_together(recipe: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=r"is not allowed with .*allowed: one of the two") as caught:
        check_recipe(Recipe(**recipe), "cuda")
    assert named in str(caught.value)


def test_an_impossible_cell_of_a_factorial_is_refused_when_the_plan_is_made(grid: Any) -> None:
    line = grid("--device", "cpu", "--techniques", "compile,grad_checkpoint").line
    assert "recipe.grad_checkpoint: True is not allowed with compile=default" in line


def test_everything_else_may_be_combined_on_cuda() -> None:
    refused = {
        frozenset(pair)
        for pair in itertools.combinations(TECHNIQUES, 2)
        if not set(TECHNIQUES[pair[0]].owns) & set(TECHNIQUES[pair[1]].owns) and not _allowed(pair)
    }
    assert refused == {frozenset({"cuda_graph", "grad_checkpoint"}), frozenset({"compile", "grad_checkpoint"})}


def _allowed(pair: tuple[str, ...]) -> bool:
    recipe = apply(Recipe(batch_size=64), pair, "cuda")
    try:
        check_recipe(recipe, "cuda")
        check_machine(recipe, "cuda", ABLE)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("recipe", "least"),
    [({"precision": "bf16"}, (8, 0)), ({"precision": "tf32"}, (8, 0)), ({"compile": "default"}, (7, 0))],
)
def test_capability(recipe: dict[str, Any], least: tuple[int, int]) -> None:
    made = Recipe(**recipe)
    check_machine(made, "cuda", Machine(least, "c++", triton=True))
    check_machine(made, "cpu", Machine((6, 1), "c++", triton=True))
    with pytest.raises(InputError, match=rf"on capability 6\.1; allowed: from {least[0]}\.{least[1]} up"):
        check_machine(made, "cuda", Machine((6, 1), "c++", triton=True))
    check_machine(OFF, "cuda", Machine((3, 5), None, triton=False))


def test_compilation_needs_a_compiler_and_on_cuda_triton() -> None:
    made = Recipe(compile="default")
    with pytest.raises(InputError, match=r"recipe.compile: 'default' is not allowed without a C\+\+ compiler"):
        check_machine(made, "cpu", Machine(None, None, triton=True))
    check_machine(made, "cpu", Machine(None, "c++", triton=False))
    with pytest.raises(InputError, match="on cuda without Triton"):
        check_machine(made, "cuda", Machine((9, 0), "c++", triton=False))


def test_the_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requirements.find_compiler() is None
    for name in ("g++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("CXX", "mine" if name == "mine" else "")
        assert requirements.find_compiler() == str(tmp_path / name)
    monkeypatch.setenv("CXX", "missing")
    assert requirements.find_compiler() is None


@pytest.mark.parametrize(("named", "status"), [("", "ok"), ("no-such-compiler", "warn")])
def test_doctor_looks_for_the_compiler(named: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", named or sys.executable)
    [check] = doctor._compiler()
    assert check.status == status and bool(check.remedy) == (status == "warn")


def test_preflight_refuses_what_the_machine_cannot_do(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    job = Job(spec=small_spec(compile="default"), data_dir=str(digits_dir), work_dir=str(tmp_path))
    with pytest.raises(InputError, match="without a C"):
        preflight.preflight([job], lambda _text: None)


def test_preflight_refuses_a_model_without_checkpointing(digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(model="timm:dla46_c", grad_checkpoint=True, image_size=32)
    job = Job(spec=spec, data_dir=str(digits_dir), work_dir=str(tmp_path))
    preflight.preflight([job.model_copy(update={"spec": small_spec(grad_checkpoint=True)})], lambda _text: None)
    with pytest.raises(InputError, match=r"recipe.grad_checkpoint of timm:dla46_c: True is not allowed"):
        preflight.preflight([job], lambda _text: None)


def test_the_preflight_sees_every_setting_with_a_requirement() -> None:
    base = requirements.key(OFF)
    for need in REQUIREMENTS:
        assert requirements.key(OFF.model_copy(update={need.setting: need.values[0]})) != base
    assert requirements.key(OFF.model_copy(update={"epochs": 7})) == base


def test_allowed_grids_are_planned(grid: Any) -> None:
    result = grid("--device", "cpu", "--techniques", "ga,grad_checkpoint", "--json")
    assert result.code == 0
    assert json.dumps(json.loads(result.out)).count('"grad_checkpoint": true') == 2
