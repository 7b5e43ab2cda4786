"""From options to what is tuned: baseline, space, objective and the study's name, all checked before anything runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import nvml
from pipeline.design import catalog, scalars, selection, study, techniques
from pipeline.design.options import GridOptions, TuneOptions
from pipeline.design.own_recipe import recipe_line
from pipeline.design.plan import Plan
from pipeline.design.spec import MAX_BATCH, Frozen, Probe, RunSpec, SafeName, content_digest
from pipeline.design.study import Study
from pipeline.errors import not_allowed, suggest
from pipeline.execution.device import device_of
from pipeline.tracking.provenance import host_provenance
from pipeline.tuning import space as spaces
from pipeline.tuning import storage_url
from pipeline.tuning.objective import OBJECTIVES, Limits, Objective, probe


@dataclass(frozen=True)
class Setup:
    """What is tuned.

    Attributes:
        name: of the Optuna study and of the study file.
        spec: the baseline's run.
        plan: the study (with the searched techniques) and device, for the rows in the tracking store.
        base: the study that the baseline's recipe came from.
        identity: digest of everything that makes two searches comparable.
    """

    name: str
    spec: RunSpec
    plan: Plan
    base: Study
    space: spaces.Space
    objective: Objective
    probe: Probe
    storage: str
    identity: str
    headline: str


def prepare_tuning(options: TuneOptions) -> Setup:
    """Checks everything and puts it together; nothing heavy is imported.

    Raises:
        InputError: anything that is not allowed.
        OutsideError: no such device.
    """
    for flag, name in (("--model", options.model), ("--dataset", options.dataset)):
        if name == "all" or "," in name:
            raise not_allowed(flag, name, "one name")
    storage = storage_url.resolve(options.storage)
    if options.objective not in OBJECTIVES:
        raise not_allowed("--objective", options.objective, suggest(options.objective, list(OBJECTIVES)))
    objective = OBJECTIVES[options.objective]
    cell = GridOptions(
        study=options.study,
        models=options.model,
        datasets=options.dataset,
        techniques="none",
        seeds=1,
        settings=options.settings,
        skip_unreadable=options.skip_unreadable,
    )
    choice = selection.select_plan(cell, device_of(options))
    spec = choice.plan.runs[0].spec.model_copy(update={"seed": options.seed})
    base = choice.base
    levels = _levels(options, spec, base)
    space = spaces.build_space(
        spec.recipe,
        spec.device,
        samples=train_samples(spec),
        levels=levels,
        batches=_sizes("--batch-sizes", options.batch_sizes),
        accumulations=_sizes("--accumulation", options.accumulation),
        effective_batch=options.effective_batch,
    )
    limits = Limits(
        options.trial_seconds,
        options.interval_width,
        options.target_accuracy,
        options.budget_samples,
        options.budget_seconds,
    )
    measured = probe(objective, limits)
    identity = content_digest(
        [
            *(spec.model, spec.dataset, spec.data_digest, objective.name, space.digest, options.seed),
            *(measured.model_dump(mode="json"), options.memory_limit, hardware(spec.device)),
        ]
    )
    name = options.name or storage_url.study_name(spec.model, spec.dataset, objective.name, identity)
    study.validated(_Named, {"name": name}, "--name")
    own = choice.plan.study.is_own(spec.model, spec.dataset)
    tuned = study.replace(choice.plan.study, name=choice.plan.study.name if own else base.name, techniques=levels)
    headline = (
        f"tune {spec.model} on {spec.dataset} for {objective.name}: {len(space.configs)} configurations, "
        f"{min(options.trials, len(space.configs))} trials, device {spec.device}, baseline {space.baseline.label} of "
        f"{'its own recipe' if own else f'study {base.name}'}; Optuna study {name}"
    )
    told = [recipe_line(spec.model, spec.dataset, spec.recipe)] if own else []
    headline = "\n".join([headline, *told, *choice.plan.notes])
    plan = Plan(tuned, spec.device, ())
    return Setup(name, spec, plan, base, space, objective, measured, storage, identity, headline)


class _Named(Frozen):
    name: SafeName


def _levels(options: TuneOptions, spec: RunSpec, base: Study) -> dict[str, tuple[str, ...]]:
    """Technique -> on-levels to search."""
    if options.techniques in (None, "", "none") and not options.levels:
        return {}
    named = (
        [] if options.techniques in (None, "", "none") else [n.strip() for n in (options.techniques or "").split(",")]
    )
    found = {name: base.techniques.get(name) or (techniques.get(name).default[spec.device],) for name in named}
    if len(found) != len(named):
        raise not_allowed("--techniques", options.techniques, "names separated by commas, each once")
    return found | selection.parse_levels(options.levels)


def _sizes(flag: str, text: str | None) -> Sequence[int] | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        sizes = {scalars.whole(word.strip()) for word in text.split(",")}
        if min(sizes) > 0 and max(sizes) <= MAX_BATCH and len(sizes) <= 1000:
            return sorted(sizes)
    raise not_allowed(flag, text, f"whole numbers from 1 to {MAX_BATCH}, separated by commas")


def train_samples(spec: RunSpec) -> int | None:
    """Training images of an epoch, validation part and `max_train_samples` taken off; None when unknown."""
    from pipeline.design.split_sizes import sizes

    row = catalog.dataset(spec.dataset)
    count, classes, own = row.train_images, row.classes, 0
    if spec.dataset.startswith(catalog.IMAGEFOLDER):
        from pipeline.design.imagefolder import scan_folder
        from pipeline.design.readable import leave_out_unreadable

        listing = scan_folder(Path(spec.dataset.removeprefix(catalog.IMAGEFOLDER)), f"dataset {spec.dataset}")
        listing = leave_out_unreadable(listing, spec.recipe.skip_unreadable)
        count, classes, own = len(listing.train), len(listing.classes), listing.held_out
    if not count:
        return None
    return sizes(count, classes, spec.recipe.validation_fraction, spec.recipe.max_train_samples, own)[0]


def hardware(device: str) -> str:
    """What a tuned number holds for: the GPU's or the processor's name."""
    gpus: Any = nvml.gpus() if device == "cuda" else []
    return gpus[0].name if gpus else host_provenance()["env.cpu"]
