"""Study files: what to compare, on what, with which recipes. YAML in, a validated `Study` out."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from pipeline.design import catalog, techniques
from pipeline.design.spec import Frozen, Recipe, SafeName
from pipeline.errors import AblateError, InputError, first_line, not_allowed, suggest

M = TypeVar("M", bound=BaseModel)
MAX_STUDY_BYTES = 1_000_000
MAX_CELLS = 1_000_000
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

    The recipe of a cell is built from `recipe`, then its model's fields, then each matching entry of
    `overrides` in order, then `--set`; techniques come on top.

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
    """

    name: SafeName
    title: str = ""
    models: Annotated[dict[str, Overrides], Field(min_length=1)]
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    techniques: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    seeds: Annotated[int, Field(ge=1, le=100_000)] = 1
    base_seed: Annotated[int, Field(ge=0, lt=2**30)] = 0
    order_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    sentinels: bool = False
    variants: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    design: Annotated[str, Field(pattern="^(full|fractional)$")] = "full"
    recipe: Overrides = Field(default_factory=dict)
    overrides: tuple[Override, ...] = ()

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        """A list of names is a mapping with empty recipes; `NAME:` alone in YAML is null."""
        if isinstance(value, list):
            return {str(name): {} for name in value}
        if isinstance(value, dict):
            return {name: {} if fields is None else fields for name, fields in value.items()}
        return value

    @field_validator("datasets")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a list without duplicates")
        return value

    @field_validator("techniques", mode="before")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        """`[ga, amp]`, `{ga: 4}` and `{ga: [2, 4]}` are all understood."""
        if isinstance(value, list):
            return {str(name): () for name in value}
        if isinstance(value, dict):
            return {name: _as_levels(levels) for name, levels in value.items()}
        return value

    def recipe_for(self, model: str, dataset: str, extra: Mapping[str, Any] | None = None) -> Recipe:
        """Builds the baseline recipe of one (model, data set).

        Raises:
            InputError: a field is unknown or its value is not allowed.
        """
        layers: list[tuple[str, Mapping[str, Any]]] = [
            (f"study {self.name}: recipe", self.recipe),
            (f"study {self.name}: models.{model}", self.models.get(model, {})),
        ]
        for number, override in enumerate(self.overrides):
            if override.model in (None, model) and override.dataset in (None, dataset):
                layers.append((f"study {self.name}: overrides[{number}].recipe", override.recipe))
        layers.append(("--set", extra or {}))
        fields: dict[str, Any] = {}
        for where, layer in layers:
            fields.update(layer)
            validated(Recipe, fields, where)
        return validated(Recipe, fields, f"study {self.name}: recipe")


def _as_levels(levels: Any) -> tuple[str, ...]:
    """YAML reads `on` as true; levels are text, as on the command line."""
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


class _StudyLoader(yaml.SafeLoader):
    """Safe YAML without aliases (no expansion bombs) and without duplicate keys (no silent overwriting)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("an alias (*name), which study files may not use")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str) or key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: a duplicate or compound key")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Reads one study file safely.

    Raises:
        InputError: unreadable, too large, not UTF-8, or no plain YAML.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_STUDY_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        cause = getattr(error, "strerror", None) or error
        raise not_allowed("study file", str(path), f"a readable file ({cause})") from None
    if len(raw) > MAX_STUDY_BYTES:
        raise InputError(f"study file {path}: too large; allowed: at most {MAX_STUDY_BYTES} bytes")
    try:
        return yaml.load(raw.decode("utf-8"), Loader=_StudyLoader)
    except UnicodeDecodeError:
        raise InputError(f"study file {path}: not UTF-8; allowed: YAML in UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"study file {path}: {place}{problem}; allowed: plain YAML") from None


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
    content = _extended(read_yaml(path), path, depth=0)
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
    below = _extended(read_yaml(found), found, depth + 1)
    for own in ("name", "title"):
        below.pop(own, None)
    return {**below, **content}


def _find(name_or_file: str) -> Path:
    if name_or_file.endswith((".yaml", ".yml")) or os.sep in name_or_file:
        return Path(name_or_file)
    known: list[str] = []
    for folder in study_folders():
        candidate = folder / f"{name_or_file}.yaml"
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have: too long, or with a NUL
            if candidate.is_file():
                return candidate
        known += sorted(path.stem for path in folder.glob("*.yaml"))
    raise not_allowed("--study", name_or_file, suggest(name_or_file, list(dict.fromkeys(known))) + ", or a .yaml file")


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
    except AblateError as error:
        raise type(error)(f"{where}: {error}") from None
    for field, values in study.variants.items():
        if field not in Recipe.model_fields:
            raise not_allowed(f"{where}: variants: field", field, suggest(field, sorted(Recipe.model_fields), 60))
        for value in values:
            validated(Recipe, {field: value}, f"{where}: variants")
    for model in study.models:
        for dataset in study.datasets:
            study.recipe_for(model, dataset)


def replace(study: Study, **changes: Any) -> Study:
    """Returns a copy with validated changes (the command line on top of the file).

    Raises:
        InputError: a field is unknown or its value is not allowed.
    """
    fields: dict[str, Any] = {name: getattr(study, name) for name in type(study).model_fields}
    fields["overrides"] = [override.model_dump() for override in study.overrides]
    return validated(Study, {**fields, **changes}, "command line")


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Reads `--set FIELD=VALUE`: values are YAML scalars, fields those of the recipe.

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
        try:
            value = yaml.load(text, Loader=_StudyLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise not_allowed(f"--set: {name}", text, "a plain value") from None
        # YAML 1.1 reads 1e-3 as text; only numbers look like that here
        fields[name] = text if isinstance(value, str) else value
        # PyYAML turns `off` into False, which is a legal word for the `compile` field
        if name == "compile" and value is False:
            fields[name] = "off"
        validated(Recipe, {name: fields[name]}, "--set")
    return fields
