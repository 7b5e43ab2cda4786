"""Study -> validated, blocked, seeded-shuffled run specifications.

A block is one replicate: every cell of the design once, with one seed. All cells of a block are shuffled inside
it, over models and data sets too, so that drift of the machine is spread over the cells instead of being
mistaken for an effect. Cells of one (model, data set) in a block share the seed, hence initial weights and data
order: contrasts between techniques are paired.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.design import catalog, requirements, techniques
from pipeline.design.spec import Device, Recipe, RunSpec
from pipeline.design.study import MAX_CELLS, Study
from pipeline.errors import InputError, not_allowed
from pipeline.files import reading

Setting = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A cell in its place in the design.

    Attributes:
        spec: the cell.
        block: its replicate, from 0 up.
        position: when it runs, from 0 up.
        kind: `run` for the design's cells, `sentinel` for the baselines repeated at a block's ends, `turns` for cells
            that take turns.
        title: its name where the specification's own would not tell it apart; else empty.
        tags: further tags of its row, (name, text).
        variant: the fields that the study's variants set and their values, `label_smoothing=0.1`; else empty.
    """

    spec: RunSpec
    block: int
    position: int
    kind: str = "run"
    title: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        """What people see and what its row is called."""
        return self.title or (f"{self.spec.name}/{self.variant}" if self.variant else self.spec.name)

    @property
    def model(self) -> str:
        """The model as tables call it: the effects of each variant are estimated apart, as the report does it, too."""
        return f"{self.spec.model} [{self.variant}]" if self.variant else self.spec.model


@dataclass(frozen=True)
class Plan:
    """All runs of one grid call, in run order.

    Attributes:
        study: the study as it will be run (flags applied).
        device: where it runs.
        runs: every run, in order.
        alias: for a fractional design, its defining words and aliases in words; empty for a full factorial.
        notes: what a user should know of the data sets before the first run, each in a line.
    """

    study: Study
    device: Device
    runs: tuple[PlannedRun, ...]
    alias: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[PlannedRun, ...]:
        """The design's runs, without sentinels."""
        return tuple(run for run in self.runs if run.kind == "run")

    @property
    def factors(self) -> str:
        """What the design crosses, in words: calls that cross the same may share a parent run."""
        on = {tag for run in self.runs for tag in run.spec.techniques}
        order = list(self.study.techniques)
        tags = sorted(on, key=lambda tag: (order.index(tag.partition("=")[0]), tag))
        crossed = f" x {','.join(self.study.variants)}" if self.study.variants else ""
        return (",".join(tags) or "baseline") + crossed + (" (a fraction)" if self.alias else "")


def levels_of(study: Study, device: Device) -> dict[str, tuple[str, ...]]:
    """Technique -> the levels that are on in this study: given ones, else the table's default.

    Raises:
        InputError: a technique cannot run on the device.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, given in study.techniques.items():
        technique = techniques.get(name)
        if device not in technique.devices:
            reason = next(need.why for need in technique.requires if device not in need.devices)
            raise not_allowed("technique", name, f"techniques that run on {device} ({reason})")
        if len(set(given)) != len(given):
            raise not_allowed(f"technique {name}", ",".join(given), "levels without duplicates")
        found[name] = given or (technique.default[device],)
    return found


def settings_of(study: Study, device: Device) -> tuple[list[Setting], tuple[str, ...]]:
    """All on/off combinations, baseline first, each as the tuple of techniques that are on.

    Returns:
        The settings, and the alias structure in words when the design is fractional.
    """
    levels = levels_of(study, device)
    if study.design == "fractional":
        return _fraction(levels, device)
    count = 1
    for values in levels.values():
        count *= len(values) + 1
    if count > MAX_CELLS:
        raise InputError(f"techniques: {count} combinations are not allowed; allowed: at most {MAX_CELLS}")
    axes = [("", *(_tag(name, value, len(values), device) for value in values)) for name, values in levels.items()]
    combinations = (tuple(tag for tag in combination if tag) for combination in itertools.product(*axes))
    return sorted(combinations, key=len), ()


def _fraction(levels: Mapping[str, tuple[str, ...]], device: Device) -> tuple[list[Setting], tuple[str, ...]]:
    from pipeline.design.factorial import alias_structure, fractional

    for name, values in levels.items():
        if len(values) > 1:
            raise not_allowed(f"technique {name}", ",".join(values), "one level in a fractional design")
    rows = fractional(tuple(levels))
    tags = {name: _tag(name, values[0], 1, device) for name, values in levels.items()}
    settings = [tuple(tags[name] for name in levels if row[name]) for row in rows]
    aliases = alias_structure(rows) if len(rows) < 2 ** len(levels) else ()
    return sorted(settings, key=len), tuple(found.describe() for found in aliases)


def _tag(name: str, value: str, levels: int, device: Device) -> str:
    """`amp` at its default level, `ga=4` otherwise (also when a technique has several levels)."""
    default = value in (techniques.get(name).default[device], "on")
    return name if default and levels == 1 else f"{name}={value}"


def apply(recipe: Recipe, setting: Setting, device: Device) -> Recipe:
    """Applies the techniques of a setting to a baseline recipe (order does not matter: they own disjoint fields).

    Raises:
        InputError: a level is not allowed on this recipe, or changes nothing.
    """
    for tag in setting:
        name, _, value = tag.partition("=")
        technique = techniques.get(name)
        recipe = technique.apply(recipe, value or technique.default[device])
    return recipe


def build_plan(
    study: Study, device: Device, extra: Mapping[str, Any] | None = None, blocks: range | None = None
) -> Plan:
    """Makes the plan of a study.

    Args:
        study: what to run; `seeds` is the number of blocks.
        device: where; decides default levels.
        extra: recipe fields from `--set`, on top of everything but the techniques.
        blocks: which blocks (default all); a later block of the same study has the same order in every call.

    Raises:
        InputError: anything that would make a cell invalid, before any run.
    """
    settings, alias = settings_of(study, device)
    blocks = range(study.seeds) if blocks is None else blocks
    variants = math.prod(len(values) for values in study.variants.values())
    total = len(study.models) * len(study.datasets) * len(settings) * variants * len(blocks)
    if total > MAX_CELLS:
        raise InputError(f"study {study.name}: {total} cells are not allowed; allowed: at most {MAX_CELLS}")
    data_sets = _DataSets()
    cells = list(_cells(study, device, settings, extra, data_sets))
    _check_unique(study, [spec for spec, _ in cells])
    runs: list[PlannedRun] = []
    for block in blocks:
        shuffled = list(cells)
        random.Random(f"{study.order_seed}/{block}").shuffle(shuffled)
        seed = study.base_seed + block
        runs += _block(shuffled, seed, block, len(runs), study.sentinels)
    return Plan(study, device, tuple(runs), alias, data_sets.notes)


def _cells(
    study: Study, device: Device, settings: list[Setting], extra: Mapping[str, Any] | None, data_sets: _DataSets
) -> Iterator[tuple[RunSpec, str]]:
    """The design's cells with seed 0, and their variants in words; blocks share recipes, so that plans stay small."""
    crossed = itertools.product(*study.variants.values())
    variants = [dict(zip(study.variants, values, strict=True)) for values in crossed]
    for model, dataset, variant in itertools.product(study.models, study.datasets, variants):
        baseline = _with_weights(study.recipe_for(model, dataset, {**variant, **(extra or {})}))
        check_model_recipe(model, baseline)
        told = ", ".join(f"{field}={getattr(baseline, field)}" for field in variant)
        data = data_sets(dataset, baseline.skip_unreadable)
        # how many were left out is what was measured; how many could have been is not
        baseline = baseline.model_copy(update={"skip_unreadable": data.left_out})
        for setting in settings:
            recipe = apply(baseline, setting, device)
            requirements.check_recipe(recipe, device)
            spec = RunSpec(
                model=model,
                dataset=dataset,
                techniques=setting,
                device=device,
                data_digest=data.digest,
                recipe=recipe,
            )
            yield spec, told


def _block(cells: list[tuple[RunSpec, str]], seed: int, block: int, start: int, sentinels: bool) -> list[PlannedRun]:
    """One block in run order; validated once per study, so copies skip validation."""
    runs = [(cell.model_copy(update={"seed": seed}), variant, "run") for cell, variant in cells]
    if sentinels:
        baselines = [(spec, variant) for spec, variant, _ in runs if not spec.techniques]
        first = [(spec.model_copy(update={"repeat": 1}), variant, "sentinel") for spec, variant in baselines]
        last = [(spec.model_copy(update={"repeat": 2}), variant, "sentinel") for spec, variant in baselines]
        runs = [*first, *runs, *last]
    return [
        PlannedRun(spec, block, start + index, kind, variant=variant)
        for index, (spec, variant, kind) in enumerate(runs)
    ]


def _check_unique(study: Study, cells: list[RunSpec]) -> None:
    seen: dict[str, RunSpec] = {}
    for cell in cells:
        key = f"{cell.model}|{cell.dataset}|{cell.recipe.digest}"
        if key in seen:
            raise InputError(
                f"study {study.name}: cells {seen[key].name} and {cell.name} are not allowed together; "
                "allowed: cells with different recipes"
            )
        seen[key] = cell


def check_model_recipe(model: str, recipe: Recipe) -> None:
    """Checks fields against each other and against the model's row.

    Raises:
        InputError: names the field.
    """
    row = catalog.model(model)
    if recipe.patch_size is not None and row.sized is False:
        raise not_allowed(f"recipe.patch_size of {model}", recipe.patch_size, "null (no vision transformer)")
    if recipe.patch_size is not None and recipe.image_size % recipe.patch_size:
        raise not_allowed(
            f"recipe.patch_size of {model}", recipe.patch_size, f"a divisor of image_size {recipe.image_size}"
        )
    if recipe.pretrained and recipe.weights:
        raise not_allowed("recipe.weights", recipe.weights, "no weights file together with pretrained")


def _with_weights(recipe: Recipe) -> Recipe:
    """Puts the digest of a weights file into the recipe: a path alone does not identify its content."""
    if recipe.weights is None:
        return recipe
    try:
        with reading(Path(recipe.weights)) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        cause = getattr(error, "strerror", None) or error
        raise not_allowed("recipe.weights", recipe.weights, f"a readable file ({cause})") from None
    if recipe.weights_sha256 not in (None, digest):
        raise not_allowed("recipe.weights_sha256", recipe.weights_sha256, f"that of the file, {digest}")
    return recipe.model_copy(update={"weights_sha256": digest})


@dataclass(frozen=True)
class _Data:
    """What a plan says of a data set.

    Attributes:
        digest: identity of one that can change on disk; empty otherwise.
        left_out: images that cannot be decoded and are in no part.
        notes: what a user should know of it, each in a line.
    """

    digest: str = ""
    left_out: int = 0
    notes: tuple[str, ...] = ()


class _DataSets:
    """Each data set of a plan, listed once for each number of images that may be left out."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Data] = {}

    def __call__(self, dataset: str, most: int) -> _Data:
        """Also where a bad folder is refused, before any run.

        Args:
            dataset: its name.
            most: how many unreadable images may be left out.

        Raises:
            InputError: it is not what it should be.
        """
        if not dataset.startswith(catalog.IMAGEFOLDER):
            return _Data()
        if (dataset, most) not in self._known:
            from pipeline.design.imagefolder import scan_folder
            from pipeline.design.readable import leave_out_unreadable

            folder = Path(dataset.removeprefix(catalog.IMAGEFOLDER))
            found = leave_out_unreadable(scan_folder(folder, f"dataset {dataset}"), most)
            notes = tuple(f"{dataset}: {remark}" for remark in found.remarks)
            self._known[dataset, most] = _Data(found.digest, len(found.left_out), notes)
        return self._known[dataset, most]

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of all data sets, each once."""
        return tuple(dict.fromkeys(note for data in self._known.values() for note in data.notes))
