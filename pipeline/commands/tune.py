"""`ablate tune`; and tuned recipes for `ablate grid --tuned`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.commands.calls import interrupted
from pipeline.commands.output import exit_code, not_stored, shown_on, stream_for_progress, tell_places
from pipeline.design.options import GridOptions, TuneOptions
from pipeline.design.selection import select_plan
from pipeline.errors import OutsideError
from pipeline.execution.device import device_of
from pipeline.tuning.setup import Setup, prepare_tuning
from pipeline.tuning.study_file import overrides

if TYPE_CHECKING:
    from pipeline.tuning.session import CallStatus, Tuning


def run_tune(options: TuneOptions) -> int:
    """Searches, confirms and prints what came out.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        AblateError: anything that is not allowed, before anything runs; or the store or the disk failed.
    """
    setup = prepare_tuning(options)
    out = stream_for_progress(options.as_json)
    if not options.quiet or options.dry_run:
        print(setup.headline, file=out, flush=True)
    tell_places(options)
    if options.dry_run:
        print(json.dumps(_space_document(setup), indent=1) if options.as_json else _space_text(setup))
        return 0
    try:
        tuning, status = _tune(options, setup, out)
    except KeyboardInterrupt:  # before the first trial
        return interrupted()
    if status.outcome is not None and status.document is not None:  # before anything that failed after it is told
        if options.as_json:
            print(json.dumps(status.document, indent=1), flush=True)
        else:
            _show(tuning, status)
    code = _exit_code(tuning, status)
    if status.problems:
        raise OutsideError(f"the result above could not be kept everywhere: {'; '.join(status.problems)}")
    return code


def with_tuned_recipes(options: GridOptions, out: TextIO) -> GridOptions:
    """Tunes each (model, data set) of a grid once, for throughput, and puts the recipes into the grid's options.

    What is tuned already, for the same recipe, space and device, is not tuned again. A dry run uses what there is and
    tunes nothing.

    Args:
        options: of the grid.
        out: where progress is shown.

    Raises:
        InputError, OutsideError: as a tuning and a grid do.
        KeyboardInterrupt: interrupted.
    """
    study = select_plan(options, device_of(options)).plan.study
    recipes = []
    for model in study.models:
        for dataset in study.datasets:
            recipe = _tuned_recipe(_tuning_of(options, model, dataset), out)
            if recipe is not None:
                recipes.append(overrides(model, dataset, recipe))
    return replace(options, overrides=tuple(recipes))


def _tuning_of(options: GridOptions, model: str, dataset: str) -> TuneOptions:
    """What `--tuned` of a grid means for one (model, data set): always on this machine, one trial at a time."""
    return TuneOptions(
        model=model,
        dataset=dataset,
        study=options.study,
        settings=options.settings,
        trials=options.tune_trials,
        trial_seconds=options.tune_seconds,
        storage=options.storage,
        device=options.device,
        data_dir=options.data_dir,
        skip_unreadable=options.skip_unreadable,
        tracking_uri=options.tracking_uri,
        run_timeout=options.timeout,
        dry_run=options.dry_run,
        quiet=options.quiet,
        verbose=options.verbose,
    )


def _tuned_recipe(options: TuneOptions, out: TextIO) -> dict[str, Any] | None:
    """The recommended recipe fields of one (model, data set); None for a dry run that finds none."""
    from pipeline.tuning.reading import result_of
    from pipeline.tuning.storage import existing

    setup = prepare_tuning(options)
    cell = f"{setup.spec.model} on {setup.spec.dataset}"
    study = existing(setup.storage, setup.name)
    document = result_of(study, setup.identity) if study else None
    if document is None and options.dry_run:
        print(f"not tuned yet: {cell}", file=out, flush=True)
        return None
    if document is None:
        print(setup.headline, file=out, flush=True)
        tuning, status = _tune(options, setup, out)
        if status.interrupted:
            raise KeyboardInterrupt
        _exit_code(tuning, status)
        for problem in status.problems:
            print(f"not kept: {problem}", file=out, flush=True)
        document = status.document
    if document is None:
        raise OutsideError(f"tuning of {cell} came to no result; see ablate tune")
    fields = dict(document["recommended"])
    shown = ", ".join(f"{name}={value}" for name, value in fields.items())
    print(f"tuned {cell} ({document['verdict']}): {shown}", file=out, flush=True)
    return fields


def _tune(options: TuneOptions, setup: Setup, out: TextIO) -> tuple[Tuning, CallStatus]:
    with shown_on(out, options) as display:
        from pipeline.tuning.session import Tuning

        tuning = Tuning(options, setup, display)
        return tuning, tuning.run()


def _exit_code(tuning: Tuning, status: CallStatus) -> int:
    result = status.outcome
    return exit_code(
        broken=status.broken,
        was_interrupted=status.interrupted,
        delivered=status.delivered,
        cause=tuning.recorder.error,
        complete=result is not None and result.best is not None and not result.failed,
    )


def _show(tuning: Tuning, status: CallStatus) -> None:
    from pipeline.tuning.text import show_tuning

    assert status.outcome is not None and status.document is not None
    show_tuning(status.outcome)
    for line in not_stored(tuning.store.problems):
        print(line)
    if status.document["study_file"]:
        print(f"the recommended recipe as a study: ablate grid --study {status.document['study_file']}")
    storage = f" --storage {status.document['storage']}" if tuning.options.storage else ""
    print(f"look at the trials: ablate ui --optuna{storage}")


def _space_text(setup: Setup) -> str:
    names = ("batch_size", "accumulation_steps", *setup.space.levels)
    lines = [f"  {name:<20} {', '.join(map(str, setup.space.values(name)))}" for name in names]
    return "\n".join([f"{len(setup.space.configs)} configurations:", *lines])


def _space_document(setup: Setup) -> dict[str, Any]:
    return {
        "name": setup.name,
        "model": setup.spec.model,
        "dataset": setup.spec.dataset,
        "objective": setup.objective.name,
        "device": setup.spec.device,
        "probe": setup.probe.model_dump(mode="json"),
        "baseline": setup.space.baseline.params,
        "configurations": [config.params for config in setup.space.configs],
    }
