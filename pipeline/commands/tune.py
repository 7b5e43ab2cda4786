"""`ablate tune`, without parsing; and tuned recipes for `ablate grid --tuned`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.commands.display import LiveDisplay, PlainDisplay
from pipeline.design import selection
from pipeline.errors import OutsideError
from pipeline.execution import interrupt
from pipeline.execution.device import device_of
from pipeline.tuning.setup import Setup, TuneOptions, prepare_tuning
from pipeline.tuning.study_file import overrides

if TYPE_CHECKING:
    from pipeline.tuning.session import CallStatus, Tuning


def run_tune(options: dict[str, Any], *, as_json: bool, dry_run: bool) -> int:
    """`ablate tune`; returns the exit code."""
    flags = TuneOptions(**options)
    setup = prepare_tuning(flags)
    out = sys.stderr if as_json else sys.stdout
    print(setup.headline, file=out, flush=True)
    if dry_run:
        print(json.dumps(_space_document(setup), indent=1) if as_json else _space_text(setup))
        return 0
    try:
        held, result = _tune(flags, setup, out)
    except KeyboardInterrupt:  # before the first trial
        return _interrupted()
    code = _exit_code(held, result)
    if result.outcome is not None and result.document is not None:
        if as_json:
            print(json.dumps(result.document, indent=1))
        else:
            _show(held, result)
    return code


def _tune(flags: TuneOptions, setup: Setup, out: TextIO) -> tuple[Tuning, CallStatus]:
    live = out.isatty() and os.environ.get("TERM") != "dumb"
    display = LiveDisplay() if live else PlainDisplay(out)
    try:
        from pipeline.tuning.session import Tuning

        held = Tuning(flags, setup, display)
        return held, held.run()
    finally:
        display.close()


def _show(held: Tuning, result: CallStatus) -> None:
    from pipeline.tuning.text import show_tuning

    assert result.outcome is not None and result.document is not None
    show_tuning(result.outcome)
    for problem in held.tracker.problems[:5]:
        print(f"not stored: {problem}")
    if result.document["study_file"]:
        print(f"the recommended recipe as a study: ablate grid --study {result.document['study_file']}")
    storage = f" --storage {result.document['storage']}" if held.flags.storage else ""
    print(f"look at the trials: ablate ui --optuna{storage}")


def _exit_code(held: Tuning, result: CallStatus) -> int:
    if result.broken is not None:
        go_on = interrupt.resume_command()
        raise OutsideError(f"{result.broken}; what was journaled is kept, go on with: {go_on}")
    if result.interrupted:
        return _interrupted()
    if not result.delivered:
        cause = held.book.error or "the store does not answer"
        raise OutsideError(f"tracking store: not everything was delivered ({cause}); `ablate sync` will deliver it")
    found = result.outcome
    return 1 if found is None or found.best is None or found.failed else 0


def _interrupted() -> int:
    print(f"ablate: interrupted; go on with: {interrupt.resume_command()}", file=sys.stderr)
    return 130


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


def freeze(
    flags: selection.GridOptions, how: Mapping[str, Any], *, dry_run: bool, out: TextIO
) -> selection.GridOptions:
    """Tunes each (model, data set) of a grid once, for throughput, and puts the recipes into the grid's flags.

    What is tuned already, for the same recipe, space and device, is not tuned again.

    Args:
        flags: of the grid.
        how: fields of `TuneOptions`: the trials of each search, their length, Optuna's storage.
        dry_run: use what there is and tune nothing.
        out: where to say what happens.

    Raises:
        InputError, OutsideError: as a tuning and a grid do.
        KeyboardInterrupt: interrupted.
    """
    chosen = selection.select_plan(flags, device_of(flags)).plan.study
    frozen = []
    for model in chosen.models:
        for dataset in chosen.datasets:
            wanted = TuneOptions(
                model=model,
                dataset=dataset,
                study=flags.study,
                settings=flags.settings,
                **how,
                device=flags.device,
                data_dir=flags.data_dir,
                tracking_uri=flags.tracking_uri,
                run_timeout=flags.timeout,
            )
            found = _tuned(wanted, dry_run=dry_run, out=out)
            if found is not None:
                frozen.append(overrides(model, dataset, found))
    return replace(flags, overrides=tuple(frozen))


def _tuned(flags: TuneOptions, *, dry_run: bool, out: TextIO) -> dict[str, Any] | None:
    """The recommended recipe fields of one (model, data set)."""
    from pipeline.tuning.session import IDENTITY, RESULT
    from pipeline.tuning.storage import existing

    setup = prepare_tuning(flags)
    study = existing(setup.storage, setup.name)
    known = study.user_attrs.get(RESULT) if study and study.user_attrs.get(IDENTITY) == setup.identity else None
    if known is None and dry_run:
        print(f"not tuned yet: {setup.spec.model} on {setup.spec.dataset}", file=out, flush=True)
        return None
    if known is None:
        print(setup.headline, file=out, flush=True)
        held, result = _tune(flags, setup, out)
        if result.interrupted:
            raise KeyboardInterrupt
        _exit_code(held, result)
        known = result.document
    if known is None:
        raise OutsideError(f"tuning of {setup.spec.model} on {setup.spec.dataset} came to no result; see ablate tune")
    fields = dict(known["recommended"])
    shown = ", ".join(f"{name}={value}" for name, value in fields.items())
    print(f"tuned {setup.spec.model} on {setup.spec.dataset} ({known['verdict']}): {shown}", file=out, flush=True)
    return fields
