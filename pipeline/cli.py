"""The command line: parsing and printing only. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline import __version__
from pipeline.errors import AblateError

_READERS = ("report", "compare", "status")  # commands that change nothing in a store, and leave no thread
F = TypeVar("F", bound=Callable[..., Any])


def _option(*names: str, **settings: Any) -> Callable[[F], F]:
    """An option that also reads `ABLATE_NAME`; flags win over environment variables, those over study files."""
    long = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", "ABLATE_" + long[2:].upper().replace("-", "_"))
    settings.setdefault("show_default", settings.get("default") is not None)
    return click.option(*names, **settings)


def _run_options(function: F) -> F:
    """The options that `grid`, `run` and `tune` share."""
    options = [
        _option("--study", metavar="NAME|FILE", help="Study by name or YAML file."),
        _option("--technique", "levels", multiple=True, metavar="NAME=VALUE", help="Level(s) of a technique: ga=8."),
        _option("--seeds", type=click.IntRange(1, 100_000), help="Number of blocks, each with its own seed."),
        _option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Recipe field, for every cell."),
        _option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="Where to train."),
        _option("--launcher", type=click.Choice(["local", "ray"]), default="local", help="What runs the cells."),
        _option("--address", default="auto", metavar="auto|HOST:PORT", help="Ray cluster, for --launcher ray."),
        _option("--jobs", type=click.IntRange(1, 1024), help="Runs at once (CPU: 1; GPU: one per GPU)."),
        _option("--data-dir", metavar="DIR", help="Where data sets are."),
        _option("--tracking-uri", metavar="URI", help="MLflow tracking store  [default: sqlite:///mlruns/mlflow.db]"),
        _option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Longest time of a run."
        ),
        _option(
            "--retries", type=click.IntRange(0, 1000), default=2, help="Tries again of a failed cell, over all calls."
        ),
        _option(
            "--checkpoint-every", type=click.IntRange(0), default=0, metavar="EPOCHS", help="Checkpoint long runs."
        ),
        _option("--fresh", is_flag=True, envvar=None, help="Run everything again, under a new parent run."),
        _option("--dry-run", is_flag=True, envvar=None, help="Print the plan and run nothing."),
        _option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ablate")
def cli() -> None:
    """Which training-acceleration technique pays, by how much, with what error bars, and do they combine?"""


@cli.command()
@_option("--models", metavar="all|A,B", help="Models: the study's, names, or timm:NAME.")
@_option("--datasets", metavar="all|A,B", help="Data sets: the study's, names, or imagefolder:DIR.")
@_option("--techniques", metavar="all|A,B", help="Techniques that make the factorial design.")
@_option("--until-decided", is_flag=True, envvar=None, help="Add blocks until every interval is narrow enough.")
@_option("--precision", type=click.FloatRange(0, 1, min_open=True), default=0.02, help="How narrow, as a fraction.")
@_option("--max-blocks", type=click.IntRange(1, 100_000), default=20, help="Where --until-decided gives up.")
@_option("--rerun-tainted", is_flag=True, envvar=None, help="Measure cells again that something disturbed.")
@_option("--nproc", type=click.IntRange(1, 1024), default=1, help="Processes per run, data-parallel (one GPU each).")
@_option("--design", type=click.Choice(["full", "fractional"]), help="Full factorial or resolution-IV fraction.")
@_option("--tuned", is_flag=True, envvar=None, help="First tune each (model, data set), once, and freeze its recipe.")
@_option("--tune-trials", type=click.IntRange(1, 100_000), default=30, help="Trials of each search of --tuned.")
@_option(
    "--tune-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    metavar="SECONDS",
    help="Longest training of a trial of --tuned.",
)
@_option("--storage", metavar="URL", help="Optuna storage of --tuned  [default: sqlite:///mlruns/optuna.db]")
@_run_options
def grid(as_json: bool, dry_run: bool, tuned: bool, storage: str | None, **options: Any) -> None:
    """Run a designed experiment: every combination of techniques, blocked, shuffled, tracked in MLflow."""
    from pipeline.commands.grid import run_grid

    length = {"trials": options.pop("tune_trials"), "trial_seconds": options.pop("tune_seconds")}
    first = {**length, "storage": storage} if tuned else None
    _leave(run_grid(options, as_json=as_json, dry_run=dry_run, single=False, tuned=first))


@cli.command()
@_option("--model", "models", required=True, metavar="M", help="Model name, or timm:NAME.")
@_option("--dataset", "datasets", required=True, metavar="D", help="Data set name, or imagefolder:DIR.")
@_option("--techniques", default="none", metavar="none|A,B", help="Techniques that are on.")
@_option("--nproc", type=click.IntRange(1, 1024), default=1, help="Processes per run, data-parallel (one GPU each).")
@_run_options
def run(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Run one cell."""
    from pipeline.commands.grid import run_grid

    _leave(run_grid(options, as_json=as_json, dry_run=dry_run, single=True))


def _tune_options(function: F) -> F:
    """The options of `tune`: what is searched, for what, how long, and where it is kept."""
    positive = click.FloatRange(min=0, min_open=True)
    objectives = ["throughput", "time", "memory", "accuracy", "pareto"]
    options = [
        _option("--model", required=True, metavar="M", help="Model name, or timm:NAME."),
        _option("--dataset", required=True, metavar="D", help="Data set name, or imagefolder:DIR."),
        _option("--objective", type=click.Choice(objectives), default="throughput", help="What to tune for."),
        _option("--study", metavar="NAME|FILE", help="Study that the baseline recipe comes from."),
        _option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Field of the baseline recipe."),
        _option("--techniques", metavar="A,B", help="Techniques to search too, each off or on."),
        _option(
            "--technique", "levels", multiple=True, metavar="NAME=VALUE", help="Level(s) to search: amp=fp16,bf16."
        ),
        _option("--batch-sizes", metavar="N,N", help="Micro-batches  [default: powers of two, multiples of 8]"),
        _option("--accumulation", metavar="N,N", help="Accumulation steps  [default: 1,2,4,...,64]"),
        _option("--effective-batch", type=click.IntRange(1), metavar="N", help="Only configurations of this product."),
        _option("--memory-limit", type=positive, metavar="MIB", help="Peak memory that a configuration may need."),
        _option("--target-accuracy", type=click.FloatRange(0, 1, min_open=True), help="For time: on validation."),
        _option("--budget-samples", type=click.IntRange(1), help="Length of a trial  [default: the recipe's epochs]"),
        _option("--budget-seconds", type=positive, help="Longest training of a trial for time, accuracy, pareto."),
        _option("--trial-seconds", type=positive, default=5.0, help="Longest training for throughput, memory."),
        _option(
            "--interval",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.01,
            help="A throughput trial ends when its 95 % interval is narrower than this share.",
        ),
        _option("--trials", type=click.IntRange(1, 100_000), default=30, help="Trials of the study, over all calls."),
        _option("--timeout", type=positive, metavar="SECONDS", help="Longest time of the search."),
        _option("--run-timeout", type=positive, metavar="SECONDS", help="Longest time of one trial."),
        _option("--retries", type=click.IntRange(0, 1000), default=2, help="Tries again of a failed trial."),
        _option("--top", type=click.IntRange(1, 100), default=3, help="Configurations that are confirmed."),
        _option("--confirm-blocks", type=click.IntRange(1, 1000), default=6, help="Blocks of the confirmation."),
        _option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of the search and its trials."),
        _option("--name", metavar="NAME", help="Of the Optuna study  [default: from what is tuned]"),
        _option("--storage", metavar="URL", help="Optuna storage  [default: sqlite:///mlruns/optuna.db]"),
        _option("--join", is_flag=True, envvar=None, help="Work on a study together with other processes."),
        _option("--fresh", is_flag=True, envvar=None, help="Forget the study's trials and start over."),
        _option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="Where to train."),
        _option("--launcher", type=click.Choice(["local", "ray"]), default="local", help="What runs the trials."),
        _option("--address", default="auto", metavar="auto|HOST:PORT", help="Ray cluster, for --launcher ray."),
        _option("--jobs", type=click.IntRange(1, 1024), help="Trials at once (CPU: 1; GPU: one per GPU)."),
        _option("--data-dir", metavar="DIR", help="Where data sets are."),
        _option("--tracking-uri", metavar="URI", help="MLflow tracking store  [default: sqlite:///mlruns/mlflow.db]"),
        _option("--dry-run", is_flag=True, envvar=None, help="Print the search space and run nothing."),
        _option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@cli.command()
@_tune_options
def tune(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Find the best accumulation factor and batch size, and confirm it against the baseline in fresh blocks."""
    from pipeline.commands.tune import run_tune

    _leave(run_tune(options, as_json=as_json, dry_run=dry_run))


@cli.command()
@click.argument("study", required=False)
@_option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def status(study: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """Show how far a study is."""
    from pipeline.commands.status import show_status

    show_status(study, tracking_uri, as_json)


@cli.command()
@_option("--data-dir", metavar="DIR", help="Where data sets are.")
@_option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def doctor(data_dir: str | None, tracking_uri: str | None, as_json: bool) -> None:
    """Check this machine: Python, torch, GPU, memory locks, disk, data, tracking store."""
    from pipeline.commands.doctor import checks

    found = checks(data_dir, tracking_uri)
    if as_json:
        click.echo(json.dumps({"checks": [vars(check) for check in found]}, indent=1))
    else:
        for check in found:
            remedy = f"  -> {check.remedy}" if check.remedy else ""
            click.echo(f"{check.status:<4}  {check.name:<16} {check.detail}{remedy}")
    _leave(1 if any(check.status == "fail" for check in found) else 0)


@cli.command()
@_option("--models", metavar="A,B", help="Models to race  [default: test_resnet,resnet50]")
@_option("--only", metavar="NAMES", help="Only these rows: over_bare, .., gather_over_loader, grid_overhead, scaling.")
@_option("--blocks", type=click.IntRange(1, 1000), help="Fresh processes per model; the interval is over them.")
@_option("--windows", type=click.IntRange(1, 100_000), help="Optimizer steps of one timed epoch.")
@_option("--batch", type=click.IntRange(2, 100_000), help="Images per step  [default: by model]")
@_option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="Where to train.")
@_option("--grid-study", metavar="NAME|FILE", default="quickstart", help="Study of grid_overhead.")
@_option("--full", is_flag=True, envvar=None, help="The report's cost at 100,000 cells too (minutes).")
@_option("--out", metavar="DIR", help="Folder for bench.json and bench.md; written after every part.")
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def bench(as_json: bool, **options: Any) -> None:
    """Measure ablate's own loop, input and overhead beside a bare loop, Accelerate, Lightning and timm."""
    from pipeline.commands.bench import run_bench as run_bench

    run_bench(options, as_json=as_json)


@cli.command()
@click.argument("study", required=False)
@_option("--out", metavar="DIR", help="Folder for the report  [default: mlruns/reports/STUDY]")
@_option("--paper", is_flag=True, envvar=None, help="Audit of arXiv 2312.10024: its claims beside our measurement.")
@_option("--memory-limit", type=click.FloatRange(min=0, min_open=True), metavar="MIB", help="For the recommendation.")
@_option("--margin", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.01, help="No-effect margin.")
@_option(
    "--accuracy-margin",
    type=click.FloatRange(0, 100, min_open=True),
    default=1.0,
    metavar="POINTS",
    help="Non-inferiority margin of accuracy.",
)
@_option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def report(study: str | None, tracking_uri: str | None, out: str | None, as_json: bool, **options: Any) -> None:
    """Effects with intervals, why, and what to use: HTML, Markdown, JSON and CSV."""
    from pipeline.commands.output import experiment_of
    from pipeline.commands.report import run_report as write_report

    write_report(
        experiment_of(study),
        tracking_uri,
        out,
        as_json=as_json,
        paper=options["paper"],
        memory_limit=options["memory_limit"],
        margin=options["margin"],
        accuracy_margin=options["accuracy_margin"],
    )


@cli.command()
@click.argument("study_a")
@click.argument("study_b")
@_option("--tracking-uri", metavar="URI", help="MLflow tracking store (of A).")
@_option("--tracking-uri-b", metavar="URI", help="Tracking store of B, if another.")
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def compare(study_a: str, study_b: str, tracking_uri: str | None, tracking_uri_b: str | None, as_json: bool) -> None:
    """Compare the same cells of two studies: machines, versions or dates."""
    from pipeline.commands.compare import run_compare as compare_studies

    compare_studies(study_a, study_b, tracking_uri, tracking_uri_b, as_json=as_json)


@cli.command()
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def techniques(as_json: bool) -> None:
    """List the techniques: levels, requirements, what each preserves and what it can save."""
    from pipeline.commands.techniques import list_techniques

    list_techniques(as_json)


@cli.command()
@_option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@_option("--json", "as_json", is_flag=True, envvar=None, help="One JSON document on standard output.")
def sync(tracking_uri: str | None, as_json: bool) -> None:
    """Deliver journals that are not wholly in the tracking store; harmless to repeat."""
    from pipeline.commands.sync import sync_journals

    sync_journals(tracking_uri, as_json)


@cli.command()
@_option("--tracking-uri", metavar="URI", help="MLflow tracking store.")
@_option("--optuna", is_flag=True, envvar=None, help="Open optuna-dashboard on the tunings instead.")
@_option("--storage", metavar="URL", help="Optuna storage of --optuna  [default: sqlite:///mlruns/optuna.db]")
@_option("--host", default="127.0.0.1", help="Address to listen on.")
@_option("--port", type=click.IntRange(1, 65535), default=5000, help="Port to listen on.")
def ui(tracking_uri: str | None, optuna: bool, storage: str | None, host: str, port: int) -> None:
    """Open MLflow's web interface on the tracking store, or Optuna's on the tunings."""
    from pipeline.commands.ui import serve, serve_optuna

    _leave(serve_optuna(storage, host, port) if optuna else serve(tracking_uri, host, port))


@cli.group()
def data() -> None:
    """Prepare or verify data sets."""


@data.command("prepare")
@click.argument("names", nargs=-1, required=True)
@_option("--data-dir", metavar="DIR", help="Where data sets are.")
def data_prepare(names: tuple[str, ...], data_dir: str | None) -> None:
    """Download or build data sets."""
    from pipeline.commands.data import prepare_data

    prepare_data(names, data_dir)


@data.command("verify")
@click.argument("names", nargs=-1, required=True)
@_option("--data-dir", metavar="DIR", help="Where data sets are.")
def data_verify(names: tuple[str, ...], data_dir: str | None) -> None:
    """Check prepared data sets against their checksums."""
    from pipeline.commands.data import verify_data

    _leave(verify_data(names, data_dir))


def _leave(code: int) -> None:
    if code:
        raise click.exceptions.Exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every failure is one line on standard error, with the contract's exit code."""
    # The imports, and the runs that are read, are a million objects that nearly all stay: with the interpreter's 700,
    # going through them again and again is a quarter of a short command's time.
    gc.set_threshold(50_000, 20, 20)
    try:
        code = cli.main(args=arguments, prog_name="ablate", standalone_mode=False)
        sys.stdout.flush()  # here, so that a full disk or a closed pipe is told as below
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was left running", 130)
    except click.ClickException as error:
        _fail(_usage(error), 2)
    except AblateError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", 3)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def program() -> None:
    """What `ablate` is: `main`, and for commands that change nothing in a store an end without taking MLflow's million
    objects to pieces, which takes a second. Exit functions are called as ever.
    """
    try:
        main()
    except SystemExit as end:
        if not (sys.argv[1:2] and sys.argv[1] in _READERS and isinstance(end.code, int)):
            raise
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(end.code)


def _usage(error: click.ClickException) -> str:
    """Click's message on one line, with the command that explains more."""
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{text} (see: {context.command_path} --help)" if context is not None else text


def _fail(text: str, code: int) -> None:
    line = " ".join(text.split())
    print(f"ablate: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    program()
