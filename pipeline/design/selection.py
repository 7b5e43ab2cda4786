"""From options to a plan: the study file, what the command line changes, the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.design import catalog, study, techniques
from pipeline.design.options import GridOptions
from pipeline.design.own_recipe import recipe_line
from pipeline.design.plan import Plan, build_plan, levels_of
from pipeline.design.spec import RERUNS_FROM, Device, Recipe
from pipeline.design.study import Study
from pipeline.design.study_names import check_name, is_whole, name_of_call
from pipeline.errors import InputError, not_allowed

MOST_RECIPES = 3  # that are told before a run


@dataclass(frozen=True)
class SelectedPlan:
    """The study to run and where.

    Attributes:
        plan: all its runs, in order.
        headline: the line that says which study it is, and why; under it the study's title, where it has one, where its
            report is, and the recipes that the study file does not say.
        base: the study as its file says.
    """

    plan: Plan
    headline: str
    base: Study


def select_plan(options: GridOptions, device: Device) -> SelectedPlan:
    """Builds the plan that the options ask for; in that of `ablate run`, all techniques that are named are on.

    Args:
        options: from the command line.
        device: where runs train.

    Raises:
        InputError: anything that is not allowed, before anything runs.
    """
    base = study.load_study(options.study or ("paper" if device == "cuda" else "quickstart"))
    chosen, off = _off_in_baselines(_with_options(base, options), base, device)
    rest = _rest(options)
    whole = is_whole(base, chosen, rest)
    name = options.name
    if name is None:
        name = base.name if options.study or whole else name_of_call(base, chosen, rest)
    else:
        check_name(name, base)
    if not whole and not options.study and name == base.name:
        raise not_allowed("--name", name, f"another name (that of the study file is for its whole, or --study {name})")
    chosen = study.replace(chosen, name=name, title=base.title if name == base.name else "")
    study.check_study(chosen, "command line")
    plan = in_processes(build_plan(chosen, device, study_settings(options)), options)
    if options.single:
        plan = _only(plan, chosen)
    if options.target_accuracy is not None and not all(run.spec.recipe.validation_fraction for run in plan.runs):
        raise not_allowed(
            "--target-accuracy", options.target_accuracy, "where images are held out (--set validation_fraction=0.1)"
        )
    why = "" if options.study or options.name else _why(base.name, device) if whole else _NAMED
    headline = f"study {chosen.name}{why}: {_counted(plan)}, {chosen.seeds} block(s), device {device}"
    return SelectedPlan(plan, "\n".join([headline, *_more_lines(plan, base), *off]), base)


_NAMED = " (named after what the command line chooses; --name NAME says otherwise)"


def _rest(options: GridOptions) -> dict[str, Any]:
    """What makes cells others than the study's beside models, data sets, techniques and design."""
    settings = study_settings(options)
    return {
        **({"set": settings} if settings else {}),
        **({"nproc": options.nproc} if options.nproc != 1 else {}),
        **({"tuned": True} if options.tuned else {}),
    }


def _why(name: str, device: Device) -> str:
    other = "quickstart" if name == "paper" else "paper"
    reason = "a CUDA device is present" if device == "cuda" else "no CUDA device, the embedded default"
    return f" ({reason}; --study {other} forces the other)"


def _counted(plan: Plan) -> str:
    cells, sentinels = len(plan.cells), len(plan.runs) - len(plan.cells)
    more = f" and {sentinels} sentinels (baselines again, to see drift)" if sentinels else ""
    return ("1 cell" if cells == 1 else f"{cells} cells") + more


def _more_lines(plan: Plan, base: Study) -> list[str]:
    """What is said under the headline."""
    chosen = plan.study
    lines = [*([" ".join(chosen.title.split())] if chosen.title else []), *plan.notes]
    if chosen.name != base.name:
        lines.append(f"its results: ablate report {chosen.name}")
    told: dict[tuple[str, str], str] = {}
    for run in sorted(plan.cells, key=lambda run: len(run.spec.techniques)):  # the baselines' first
        pair = run.spec.model, run.spec.dataset
        if pair not in told and chosen.is_own(*pair):
            told[pair] = recipe_line(*pair, run.spec.recipe)
    lines += [*told.values()][:MOST_RECIPES]
    if len(told) > MOST_RECIPES:
        lines.append(f"and {len(told) - MOST_RECIPES} more recipes: --dry-run --json has them")
    return lines


def _with_options(base: Study, options: GridOptions) -> Study:
    changes: dict[str, Any] = {}
    if options.models not in (None, "all"):
        names = _names(options.models, "--models")
        changes["models"] = {name: base.models.get(name, {}) for name in names}
    if options.datasets not in (None, "all"):
        changes["datasets"] = _names(options.datasets, "--datasets")
    if options.techniques not in (None, "all") or options.levels:
        changes["techniques"] = _technique_levels(base, options)
    if options.seeds is not None:
        changes["seeds"] = options.seeds
    if options.design is not None:
        changes["design"] = options.design
    kept = [
        o
        for o in base.overrides
        if o.model in (None, *changes.get("models", base.models))
        and o.dataset in (None, *changes.get("datasets", base.datasets))
    ]
    changes["overrides"] = [*(override.model_dump() for override in kept), *map(dict, options.overrides)]
    names = [*changes.get("models", base.models), *changes.get("datasets", base.datasets)]
    known = {*base.models, *base.datasets} - set(base.own_recipe)
    changes["own_recipe"] = [name for name in names if name not in known]
    return study.replace(base, **changes)


def _off_in_baselines(chosen: Study, base: Study, device: Device) -> tuple[Study, list[str]]:
    """Turns a technique off in baselines that have it on in the study file, which does not vary it.

    Returns:
        The study, and a line for each such technique.
    """
    overrides: list[dict[str, Any]] = []
    lines = []
    for name, values in levels_of(chosen, device).items():
        technique = techniques.get(name)
        pairs = [(model, dataset) for model in chosen.models for dataset in chosen.datasets]
        recipes = {pair: chosen.recipe_for(*pair) for pair in pairs} if name not in base.techniques else {}
        on = {pair: each for pair, each in recipes.items() if any(technique.is_on(each, value) for value in values)}
        off = {field: Recipe.model_fields[field].default for field in technique.owns}
        overrides += [{"model": model, "dataset": dataset, "recipe": off} for model, dataset in on]
        if on:
            has = technique.fields_of(next(iter(on.values())))
            lines.append(f"{name} is off in the baselines, since it is varied here (study {base.name} has {has})")
    kept = [override.model_dump() for override in chosen.overrides]
    return (study.replace(chosen, overrides=[*kept, *overrides]) if overrides else chosen), lines


def _names(text: str | None, flag: str) -> list[str]:
    names = [part.strip() for part in (text or "").split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise not_allowed(flag, text, "all, or names separated by commas, each once")
    lookup = catalog.model if flag == "--models" else catalog.dataset if flag == "--datasets" else techniques.get
    for name in names:
        lookup(name)
    return names


def _technique_levels(base: Study, options: GridOptions) -> dict[str, tuple[str, ...]]:
    if options.techniques in ("none", "baseline"):
        levels: dict[str, tuple[str, ...]] = {}
    elif options.techniques in (None, "all"):
        levels = dict(base.techniques)
    else:
        levels = {name: base.techniques.get(name, ()) for name in _names(options.techniques, "--techniques")}
    return levels | parse_levels(options.levels)


def parse_levels(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Reads `--technique NAME=VALUE` and `NAME=VALUE,VALUE`: technique -> levels; the last of a name counts.

    Raises:
        InputError: it has another form, or there is no such technique.
    """
    levels: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise not_allowed("--technique", text, "NAME=VALUE, or NAME=VALUE,VALUE,.. for several levels")
        techniques.get(name)
        levels[name] = tuple(values.split(","))
    return levels


def _only(plan: Plan, chosen: Study) -> Plan:
    """The one cell of `ablate run`: every technique named is on."""
    if len(chosen.models) != 1 or len(chosen.datasets) != 1:
        raise InputError("--model, --dataset: one model and one data set are needed; allowed: --model M --dataset D")
    on = len(chosen.techniques)
    runs = [run for run in plan.cells if len(run.spec.techniques) == on]
    if any(len(values) > 1 for values in chosen.techniques.values()):
        raise InputError("--technique: several levels are not allowed in a single run; allowed: one level")
    return Plan(plan.study, plan.device, tuple(runs), notes=plan.notes)


def study_settings(options: GridOptions) -> dict[str, Any]:
    """Returns the recipe fields of `--set`, and of options that are fields of the recipe."""
    fields = study.parse_settings(options.settings)
    return {"skip_unreadable": options.skip_unreadable, **fields} if options.skip_unreadable else fields


def in_processes(plan: Plan, options: GridOptions) -> Plan:
    """Returns the plan with every run in `--nproc` processes.

    Raises:
        InputError: a micro-batch is too small to be split over them.
    """
    if options.nproc == 1:
        return plan
    smallest = min(run.spec.recipe.batch_size for run in plan.runs)
    if smallest < 2 * options.nproc:
        allowed = f"at most half of the smallest batch_size, {smallest} (each process takes part of a micro-batch)"
        raise not_allowed("--nproc", options.nproc, allowed)
    if any(run.spec.recipe.cuda_graph for run in plan.runs):
        raise not_allowed("--nproc", options.nproc, "1 with cuda_graph (an exchange of gradients is not recorded)")
    spread = (replace(run, spec=run.spec.model_copy(update={"nproc": options.nproc})) for run in plan.runs)
    return replace(plan, runs=tuple(spread))


def with_reruns(plan: Plan, tainted: set[str]) -> Plan:
    """Replaces tainted cells by a further measurement of the same cell, which has a digest of its own."""
    runs = []
    for run in plan.runs:
        spec = run.spec
        while spec.digest in tainted:
            spec = spec.model_copy(update={"repeat": max(spec.repeat + 1, RERUNS_FROM)})
        runs.append(replace(run, spec=spec))
    return replace(plan, runs=tuple(runs))
