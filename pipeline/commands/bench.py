"""`ablate bench`, without parsing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.bench import suite, text
from pipeline.bench.cases import DEFAULT_MODELS, case_of
from pipeline.errors import OutsideError, not_allowed
from pipeline.execution import device


def run_bench(flags: dict[str, Any], *, as_json: bool) -> None:
    """Runs the benchmark and prints its results.

    Raises:
        AblateError: bad input, no such device, a folder that cannot be written, a process that failed.
    """
    options = options_of(flags)
    out = Path(flags["out"]) if flags["out"] else None
    if out is not None:
        _writable(out)

    def note(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    results = suite.run_suite(options, note, lambda found: suite.write_bench(found, out) if out is not None else None)
    document = results.document()
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        text.show_bench(document)
        if out is not None:
            print(f"written: {out / 'bench.json'}, {out / 'bench.md'}")


def options_of(flags: dict[str, Any]) -> suite.BenchOptions:
    """Checks the flags.

    Raises:
        InputError, OutsideError: before anything runs.
    """
    from pipeline.design.study import load_study

    models = tuple(name.strip() for name in flags["models"].split(",")) if flags["models"] else DEFAULT_MODELS
    if len(set(models)) != len(models):
        raise not_allowed("--models", flags["models"], "names separated by commas, each once")
    options = suite.BenchOptions(
        models=models,
        parts=suite.parse_parts(flags["only"]),
        blocks=flags["blocks"],
        windows=flags["windows"],
        batch=flags["batch"],
        device=device.resolve_device(flags["device"]),
        grid_study=flags["grid_study"],
        full=flags["full"],
        cores=len(os.sched_getaffinity(0)),
    )
    for model in models:
        case_of(model, options.device, options.cores)
    if "grid_overhead" in options.parts:
        load_study(options.grid_study)
    return options


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutsideError(f"--out {out}: cannot be made ({error.strerror})") from None
