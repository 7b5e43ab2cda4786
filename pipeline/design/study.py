"""Study files: what to compare, on what, with which recipes. YAML in, a validated `Study` out."""

from __future__ import annotations

import contextlib
import math
import os
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from pipeline.design import catalog, scalars, techniques, yaml_core
from pipeline.design.own_recipe import own_recipe
from pipeline.design.spec import Frozen, Recipe, SafeName
from pipeline.errors import AblateError, InputError, not_allowed, suggest

M = TypeVar("M", bound=BaseModel)
MAX_CELLS = 1_000_000
MAX_NAMES = 2000  # models, data sets, techniques: timm has 1,300 architectures
MAX_OVERRIDES = 10_000
Overrides = dict[str, Any]


class Override(Frozen):
    """Recipe fields for the cells that match.

    Attributes:
        model, dataset: the cells it is for; None matches every one.
        recipe: the fields and their values.
    """

    model: str | None = None
    dataset: str | None = None
    recipe: Overrides


class Study(Frozen):
    """A designed experiment.

    The recipe of a cell is built from `recipe`, then its model's fields (or from its own recipe alone), then each
    matching entry of `overrides` in order, then `--set`; techniques come on top.

    Attributes:
        name: of the study and of its experiment in MLflow; a study file's is that of the file unless it says another.
        title: what the study is about, shown under the first line of a call; empty for nothing.
        models: model -> recipe fields of its protocol.
        datasets: names of the catalog.
        techniques: technique -> levels; an empty list stands for its default level on the device.
        seeds: number of blocks.
        base_seed: block i uses the seed `base_seed + i`.
        order_seed: decides the order of blocks' cells.
        variants: recipe field -> values that are crossed with everything else (not a technique: no effect is
            estimated for it, but those of the techniques are estimated within each value).
        sentinels: run the baselines again at the start and at the end of every block, to see drift.
        design: `full` factorial, or `fractional` (a resolution-IV fraction).
        recipe: recipe fields of every cell.
        overrides: recipe fields of some cells, in order.
        own_recipe: models and data sets whose cells take the recipe of model and data set (`design.own_recipe`) instead
            of `recipe` and the model's fields; the command line adds those that the file does not know.
    """

    name: SafeName
    title: Annotated[str, Field(max_length=1000)] = ""
    models: Annotated[dict[str, Overrides], Field(min_length=1, max_length=MAX_NAMES)]
    datasets: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_NAMES)]
    techniques: Annotated[dict[str, tuple[str, ...]], Field(max_length=MAX_NAMES)] = Field(default_factory=dict)
    # strict: YAML's `true` is not a 1, and "3" is a text
    seeds: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1
    base_seed: Annotated[int, Field(strict=True, ge=0, lt=2**30)] = 0
    order_seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    sentinels: bool = False
    variants: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    design: Annotated[str, Field(pattern="^(full|fractional)$")] = "full"
    recipe: Overrides = Field(default_factory=dict)
    overrides: Annotated[tuple[Override, ...], Field(max_length=MAX_OVERRIDES)] = ()
    own_recipe: Annotated[tuple[str, ...], Field(max_length=2 * MAX_NAMES)] = ()

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        """A list of names is a mapping with empty recipes; `NAME:` alone in YAML is null."""
        if isinstance(value, list):
            return {name: {} for name in _distinct(value)}
        if isinstance(value, dict):
            return {name: {} if fields is None else fields for name, fields in value.items()}
        return value

    @field_validator("datasets")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _distinct(value)
        return value

    @field_validator("techniques", mode="before")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        """`[ga, amp]`, `{ga: 4}` and `{ga: [2, 4]}` are all understood."""
        if isinstance(value, list):
            return dict.fromkeys(_distinct(value), ())
        if isinstance(value, dict):
            return {name: _as_levels(levels) for name, levels in value.items()}
        return value

    def is_own(self, model: str, dataset: str) -> bool:
        """Whether the cells of a model on a data set take their own recipe instead of the study's."""
        return model in self.own_recipe or dataset in self.own_recipe

    def recipe_for(self, model: str, dataset: str, extra: Mapping[str, Any] | None = None) -> Recipe:
        """Builds the baseline recipe of one (model, data set).

        Raises:
            InputError: a field is unknown or its value is not allowed.
        """
        layers: list[tuple[str, Mapping[str, Any]]] = [
            (f"study {self.name}: recipe", self.recipe),
            (f"study {self.name}: models.{model}", self.models.get(model, {})),
        ]
        if self.is_own(model, dataset):
            layers = [(f"own recipe of {model} on {dataset}", own_recipe(model, dataset))]
        for number, override in enumerate(self.overrides):
            if override.model in (None, model) and override.dataset in (None, dataset):
                layers.append((f"study {self.name}: overrides[{number}].recipe", override.recipe))
        layers.append(("--set", extra or {}))
        fields: dict[str, Any] = {}
        for where, layer in layers:
            fields.update(layer)
            validated(Recipe, fields, where)
        return validated(Recipe, fields, f"study {self.name}: recipe")


def _distinct(names: Sequence[Any]) -> list[str]:
    if len({*map(str, names)}) != len(names):
        raise ValueError("a list without duplicates")
    return [str(name) for name in names]


def _as_levels(levels: Any) -> tuple[str, ...]:
    """Levels are text, as on the command line; a switch may be said to be `true`."""
    listed = levels if isinstance(levels, list | tuple) else [] if levels is None else [levels]
    return tuple("on" if level is True else str(level) for level in listed)


def validated(model: type[M], fields: Any, where: str) -> M:
    """Validates `fields` against a pydantic model, with its first error as one clear line.

    Raises:
        InputError: names the field, the bad value and what is allowed.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise not_allowed(f"{where}: field", place, suggest(place, sorted(model.model_fields), 60)) from None
        allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if first["type"] == "missing":
            raise InputError(f"{where}: {place} is missing; allowed: a value for it") from None
        raise not_allowed(f"{where}: {place}" if place else where, first["input"], allowed) from None


def study_folders() -> list[Path]:
    """Folders with study files by name: the working tree's, the source tree's, the installed ones."""
    source = Path(__file__).resolve().parents[2] / "experiments"
    installed = Path(sysconfig.get_path("data"), "share", "ablate", "experiments")
    return [Path("experiments"), Path("experiments", "tuned"), source, installed]


def load_study(name_or_file: str) -> Study:
    """Finds and reads a study by name (`quickstart`) or file (`my/study.yaml`).

    Raises:
        InputError: there is none, or it is not valid.
    """
    path = _find(name_or_file)
    content = _extended(yaml_core.read_file(path), path, depth=0)
    study = validated(Study, {"name": path.stem, **content}, f"study file {path}")
    check_study(study, f"study file {path}")
    return study


def _extended(content: Any, path: Path, depth: int) -> dict[str, Any]:
    """Puts the keys of a study over those of the study that it `extends`; whole keys, nothing is merged inside.

    Raises:
        InputError: no mapping, or a chain of more than four studies.
    """
    if not isinstance(content, dict):
        raise InputError(f"study file {path}: not a mapping; allowed: a mapping of {', '.join(Study.model_fields)}")
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or depth > 3:
        raise not_allowed(f"study file {path}: extends", base, "the name of a study, at most four in a chain")
    found = _find(base)
    below = _extended(yaml_core.read_file(found), found, depth + 1)
    for own in ("name", "title"):
        below.pop(own, None)
    return {**below, **content}


def _find(name_or_file: str) -> Path:
    if name_or_file.endswith((".yaml", ".yml")) or os.sep in name_or_file:
        return Path(name_or_file)
    for folder in study_folders():
        candidate = folder / f"{name_or_file}.yaml"
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have: too long, or with a NUL
            if candidate.is_file():
                return candidate
    raise not_allowed("--study", name_or_file, suggest(name_or_file, known_studies()) + ", or a .yaml file")


def known_studies() -> list[str]:
    """Names of the study files that `--study` finds by name."""
    found = (path.stem for folder in study_folders() for path in sorted(folder.glob("*.yaml")))
    return list(dict.fromkeys(found))


def check_study(study: Study, where: str) -> None:
    """Checks names, levels and recipes of a study before anything runs.

    Raises:
        InputError: the first problem, in one line.
    """
    try:
        for model in study.models:
            catalog.model(model)
        for dataset in study.datasets:
            catalog.dataset(dataset)
        techniques.check_disjoint(list(study.techniques))
        for override in study.overrides:
            if override.model is not None and override.model not in study.models:
                raise not_allowed("overrides: model", override.model, ", ".join(study.models))
            if override.dataset is not None and override.dataset not in study.datasets:
                raise not_allowed("overrides: dataset", override.dataset, ", ".join(study.datasets))
        for name in study.own_recipe:
            if name not in study.models and name not in study.datasets:
                raise not_allowed("own_recipe", name, ", ".join([*study.models, *study.datasets]))
    except AblateError as error:
        raise type(error)(f"{where}: {error}") from None
    _check_size(study, where)
    for field, values in study.variants.items():
        if field not in Recipe.model_fields:
            raise not_allowed(f"{where}: variants: field", field, suggest(field, sorted(Recipe.model_fields), 60))
        for value in values:
            validated(Recipe, {field: value}, f"{where}: variants")
    for model in study.models:
        for dataset in study.datasets:
            study.recipe_for(model, dataset)


def _check_size(study: Study, where: str) -> None:
    """Before anything is multiplied out: a short file can name more cells than there are atoms."""
    pairs = len(study.models) * len(study.datasets)
    values = [len(listed) for listed in study.variants.values()]
    cells = pairs * math.prod(values)
    if cells > MAX_CELLS:
        raise InputError(f"{where}: more than {MAX_CELLS} cells are not allowed; allowed: at most {MAX_CELLS}")
    if pairs * len(study.overrides) > MAX_CELLS:
        allowed = f"at most {MAX_CELLS} of models x data sets x overrides"
        raise not_allowed(f"{where}: overrides", len(study.overrides), allowed)


def replace(study: Study, **changes: Any) -> Study:
    """Returns a copy with validated changes (the command line on top of the file).

    Raises:
        InputError: a field is unknown or its value is not allowed.
    """
    fields: dict[str, Any] = {name: getattr(study, name) for name in type(study).model_fields}
    fields["overrides"] = [override.model_dump() for override in study.overrides]
    return validated(Study, {**fields, **changes}, "command line")


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Reads `--set FIELD=VALUE`: a value is what it would be in a study file, fields are those of the recipe.

    Raises:
        InputError: no `=`, an unknown field or a value that is not allowed.
    """
    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise not_allowed("--set", setting, "FIELD=VALUE")
        if name not in Recipe.model_fields:
            raise not_allowed("--set: field", name, suggest(name, sorted(Recipe.model_fields), 60))
        if not text.strip():
            raise not_allowed(f"--set: {name}", text, "a value; null for none")
        try:
            # text is no document: a # in the name of a file starts no comment
            fields[name] = scalars.scalar(text.strip())
        except ValueError as error:
            raise not_allowed(f"--set: {name}", text, str(error)) from None
        validated(Recipe, {name: fields[name]}, "--set")
    return fields
