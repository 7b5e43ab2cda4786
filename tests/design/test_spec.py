"""Identity is total: every field is in the digest, JSON keeps it, and it is the same in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.design.plan import build_plan
from pipeline.design.records import Job
from pipeline.design.spec import AS_BEFORE, Recipe, RunSpec, content_digest
from pipeline.design.study import load_study

SPEC = RunSpec(model="test_resnet", dataset="digits", techniques=("amp", "ga=4"), seed=5)
# values of all kinds that fields take; each field is moved to the first one that it accepts and does not have
FIELDS: tuple[Any, ...] = ({"epochs": 7}, {"max_windows": 7}, {"multiple": 7})
VALUES: tuple[Any, ...] = (True, False, 1, 2, 9, 64, 0.25, 0.5, ("pm",), "cuda", "other", *FIELDS)


def moved(base: BaseModel, field: str) -> BaseModel:
    """A copy of `base` with another valid value of `field`."""
    kind = type(base)
    literals = [arg for arg in getattr(kind.model_fields[field].annotation, "__args__", ()) if isinstance(arg, str)]
    for value in (*literals, *VALUES):
        try:
            copy = kind.model_validate({**base.model_dump(), field: value})
        except ValidationError:
            continue
        if copy != base:
            return copy
    raise AssertionError(f"no other value for {field}: add one to VALUES")


@pytest.mark.parametrize("field", list(Recipe.model_fields))
def test_every_recipe_field_alters_both_digests(field: str) -> None:
    recipe = moved(Recipe(), field)
    assert isinstance(recipe, Recipe)
    assert recipe.digest != Recipe().digest
    assert SPEC.model_copy(update={"recipe": recipe}).digest != SPEC.digest


@pytest.mark.parametrize("field", list(RunSpec.model_fields))
def test_every_run_field_alters_the_digest(field: str) -> None:
    other = moved(SPEC, field)
    assert isinstance(other, RunSpec) and other.digest != SPEC.digest


def test_digests_of_single_changes_are_all_different() -> None:
    recipes = [moved(Recipe(), field) for field in Recipe.model_fields]
    specs = [moved(SPEC, field) for field in RunSpec.model_fields]
    digests = [made.digest for made in (*recipes, *specs) if isinstance(made, Recipe | RunSpec)]
    assert len(set(digests)) == len(Recipe.model_fields) + len(RunSpec.model_fields)


def test_copies_do_not_keep_a_stale_digest() -> None:
    before = SPEC.digest
    assert SPEC.model_copy(update={"seed": 6}).digest != before
    assert SPEC.model_copy().digest == before
    recipe = SPEC.recipe
    assert recipe.digest != recipe.model_copy(update={"epochs": 3}).digest


@pytest.mark.parametrize("field", list(Recipe.model_fields))
def test_json_round_trip_keeps_spec_and_digest(field: str) -> None:
    spec = SPEC.model_copy(update={"recipe": moved(Recipe(learning_rate=0.1 + 0.2), field)})
    back = RunSpec.model_validate_json(spec.model_dump_json())
    assert back == spec and back.digest == spec.digest
    job = Job(spec=spec, data_dir="data", work_dir="work")
    assert Job.model_validate_json(job.model_dump_json()) == job


def test_digest_is_the_same_in_every_process() -> None:
    code = (
        "from pipeline.design.spec import RunSpec; import sys; "
        "print(RunSpec.model_validate_json(sys.stdin.read()).digest)"
    )
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            input=SPEC.model_dump_json(),
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == SPEC.digest


def test_equal_numbers_have_one_digest() -> None:
    assert Recipe(weight_decay=0).digest == Recipe(weight_decay=0.0).digest
    assert Recipe(learning_rate=1).digest == Recipe(learning_rate=1.0).digest


@pytest.mark.parametrize(
    ("techniques", "name"),
    [
        ((), "test_resnet/digits/baseline/s5"),
        (("ga", "amp"), "test_resnet/digits/ga+amp/s5"),
        (("ga=4",), "test_resnet/digits/ga4/s5"),
    ],
)
def test_run_names(techniques: tuple[str, ...], name: str) -> None:
    spec = SPEC.model_copy(update={"techniques": techniques})
    assert spec.name == name
    assert spec.model_copy(update={"repeat": 2}).name == f"{name}/r2"


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"batch_size": 2.5},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"precision": "fp8"},
        {"clip_norm": 0},
        {"warmup": 1.0},
        {"validation_fraction": 0.95},
        {"epoch": 3},
        {"num_workers": -1},
        {"compile": True},
    ],
)
def test_recipes_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(fields)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        SPEC.seed = 9
    with pytest.raises(ValidationError):
        SPEC.recipe.epochs = 9


def test_digest_covers_json_of_all_fields() -> None:
    assert set(json.loads(SPEC.model_dump_json())) == set(RunSpec.model_fields)


def test_a_field_that_came_later_is_no_part_of_the_digest_at_the_value_that_means_as_before() -> None:
    old = {name: value for name, value in Recipe().model_dump(mode="json").items() if name not in AS_BEFORE}
    assert Recipe().digest == content_digest(old)
    for name, value in AS_BEFORE.items():
        assert Recipe.model_fields[name].default == value, "a recipe that does not say it is as before"
        assert Recipe.model_validate({name: value}).digest == Recipe().digest


@pytest.mark.parametrize(
    ("study", "digest"),
    [("quickstart", "f611202316c8a7b503eff124ff7740c9"), ("paper", "422ca44c52b29e4d6e964ff25d0cd96a")],
)
def test_the_cells_of_the_embedded_studies_are_those_of_the_first_release(study: str, digest: str) -> None:
    """Stores that were filled then resume; a new field of the recipe belongs into `AS_BEFORE`."""
    cells = build_plan(load_study(study), "cpu").cells
    assert content_digest(sorted(cell.spec.digest for cell in cells)) == digest
    if study == "quickstart":
        by_name = {cell.spec.name: cell.spec.digest for cell in cells}
        assert by_name["test_efficientnet/digits/amp+pm/s101"] == "acd3978b29263e3e1be2f91c7da9ff5f"
        assert by_name["test_resnet/digits/ga+amp/s101"] == "ec70f0be0b6547fa55916b90d9d9b7f7"
        assert by_name["test_vit/digits100/pm/s101"] == "25bc39b93dc87b0f8bbaa4c73d19d664"
