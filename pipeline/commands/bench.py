"""`ablate bench`: ablate beside other libraries."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.bench import suite, text
from pipeline.bench.cases import DEFAULT_MODELS, case_of
from pipeline.commands.command_options import BenchArguments
from pipeline.commands.output import stream_for_progress
from pipeline.errors import OutsideError, not_allowed
from pipeline.execution import device


def run_bench(arguments: BenchArguments) -> int:
    """Runs the benchmark and prints its results.

    Args:
        arguments: as they were typed.

    Returns:
        The exit code.

    Raises:
        AblateError: bad input, no such device, a folder that cannot be written, a process that failed.
    """
    options = bench_options(arguments)
    out = Path(arguments.out) if arguments.out else None
    if out is not None:
        _writable(out)

    def note(line: str) -> None:
        print(line, file=stream_for_progress(arguments.as_json), flush=True)

    results = suite.run_suite(
        options, note, lambda measured: suite.write_bench(measured, out) if out is not None else None
    )
    document = results.document()
    if arguments.as_json:
        print(json.dumps(document, indent=1))
    else:
        text.show_bench(document)
        if out is not None:
            print(f"written: {out / 'bench.json'}, {out / 'bench.md'}")
    return 0


def bench_options(arguments: BenchArguments) -> suite.BenchOptions:
    """Checks what was typed.

    Args:
        arguments: as they were typed.

    Raises:
        InputError, OutsideError: before anything runs.
    """
    from pipeline.design.study import load_study

    models = tuple(name.strip() for name in arguments.models.split(",")) if arguments.models else DEFAULT_MODELS
    if len(set(models)) != len(models):
        raise not_allowed("--models", arguments.models, "names separated by commas, each once")
    options = suite.BenchOptions(
        models=models,
        parts=suite.parse_parts(arguments.only),
        blocks=arguments.blocks,
        windows=arguments.windows,
        batch=arguments.batch,
        device=device.resolve_device(arguments.device),
        grid_study=arguments.grid_study,
        full=arguments.full,
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
