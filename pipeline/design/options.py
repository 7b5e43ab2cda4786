"""What the command line can say about runs: one frozen class per command.

Names, defaults, allowed values and help stand here once; `cli` makes Click's options from them and hands the whole
object to the command. What the other commands take is in `commands.command_options`.

Nothing is imported here but the standard library: `--help` needs this module and has to be quick.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

_KEY = "option"
_MISSING: Any = object()

# the headings of `--help`, in the order in which they are shown
WHAT, OFTEN, WHERE, TRACKING, TUNING, OUTPUT = (
    *("What is run", "How often and how long", "Where"),
    *("Tracking", "Tuning", "Output"),
)
HELP_HEADINGS = (WHAT, TUNING, OFTEN, WHERE, TRACKING, OUTPUT)


@dataclass(frozen=True)
class Range:
    """Allowed numbers.

    Attributes:
        low: the least one.
        high: the greatest one; None for no bound.
        low_open: whether `low` itself is not allowed.
        high_open: whether `high` itself is not allowed.
    """

    low: int
    high: int | None = None
    low_open: bool = False
    high_open: bool = False


POSITIVE = Range(0, low_open=True)
SECONDS = Range(0, 10**9, low_open=True)  # what threads can wait is counted in 63 bits of nanoseconds
IMAGES = Range(1, 2**40)
SKIPPED = Range(0, 1_000_000)
SHARE = Range(0, 1, low_open=True)
INNER_SHARE = Range(0, 1, low_open=True, high_open=True)


@dataclass(frozen=True)
class Option:
    """How a field of an options class appears on the command line. Its type and default are the field's.

    Attributes:
        help: text in `--help`.
        name: long name; empty where it is the field's.
        aliases: older long names, which still work and are not shown.
        metavar: what stands for the value in `--help`; empty for Click's own.
        choices: the allowed words; empty where any is allowed.
        allowed: the allowed numbers; None where any is allowed.
        argument: whether it is a positional argument, without dashes.
        short: a name of one letter, with its dash; empty for none.
        heading: under which `--help` shows it; that of the class that declares it.
        hidden: whether `--help` leaves it out.
    """

    help: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    metavar: str = ""
    choices: tuple[str, ...] = ()
    allowed: Range | None = None
    argument: bool = False
    short: str = ""
    heading: str = ""
    hidden: bool = False


def option(default: Any = _MISSING, help: str = "", **settings: Any) -> Any:
    """A dataclass field that is an option of the command line.

    Args:
        default: its default; without one, the option is required.
        help: text in `--help`.
        settings: further attributes of `Option`.
    """
    metadata = {_KEY: Option(help, **settings)}
    return field(metadata=metadata) if default is _MISSING else field(default=default, metadata=metadata)


def argument(default: Any = _MISSING, **settings: Any) -> Any:
    """A dataclass field that is a positional argument of the command line; `settings` as of `option`."""
    return option(default, argument=True, **settings)


def offered(model: type) -> dict[str, Option]:
    """The options of a class by the name of their field, in the order of `--help`: its own, then those of its bases.

    Args:
        model: a dataclass; its `omitted` are fields of a base that its command does not offer, its `unshown` those
            that it takes and does not show, its `reworded` are help texts of fields of a base. The `heading` of a class
            is that of the fields that it declares, but for those in its `headings`, by heading.
    """
    fields = model.__dataclass_fields__  # type: ignore[attr-defined]
    omitted, reworded = getattr(model, "omitted", ()), getattr(model, "reworded", {})
    unshown = getattr(model, "unshown", ())
    found: dict[str, Option] = {}
    for origin in model.__mro__:
        for name in inspect.get_annotations(origin):
            declared = fields[name].metadata.get(_KEY) if name in fields and name not in found else None
            if declared is not None and name not in omitted:
                apart = vars(origin).get("headings", {})
                heading = next((each for each in apart if name in apart[each]), vars(origin).get("heading", ""))
                text = reworded.get(name, declared.help)
                found[name] = replace(declared, help=text, heading=heading, hidden=name in unshown)
    return found


@dataclass(frozen=True, kw_only=True)
class JsonOptions:
    """What every command that prints a result shares.

    Attributes:
        as_json: whether to print one JSON document on standard output, and everything else on standard error.
    """

    heading: ClassVar = OUTPUT

    as_json: bool = option(False, "One JSON document on standard output.", name="--json")


@dataclass(frozen=True, kw_only=True)
class CallOptions(JsonOptions):
    """What the commands that train share about the call itself.

    Attributes:
        dry_run: whether to print what would be done, and do nothing.
        quiet: whether nothing is told but the answer and what failed.
        verbose: whether phases of runs, and where files are, are told on standard error.
    """

    heading: ClassVar = OUTPUT

    dry_run: bool = option(False, "Print the plan and run nothing.")
    quiet: bool = option(False, "Only the answer, and errors.", short="-q")
    verbose: bool = option(False, "Each run's phases, and where files are, on standard error.", short="-v")


@dataclass(frozen=True, kw_only=True)
class LauncherOptions:
    """Where runs train, and where they are kept.

    Attributes:
        device: `auto` is CUDA where there is a GPU.
        launcher: what runs them.
        address: of the Ray cluster.
        jobs: runs at once; None for one per GPU, or one on a CPU.
        data_dir: folder of the data sets; None for the user's cache.
        skip_unreadable: images of a folder that may be left out because they cannot be decoded.
        tracking_uri: MLflow's store; None for the default.
    """

    heading: ClassVar = WHERE
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {TRACKING: ("tracking_uri",)}

    device: str = option("auto", "Where to train.", choices=("auto", "cuda", "cpu"))
    launcher: str = option("local", "What runs the cells.", choices=("local", "ray"))
    address: str = option("auto", "Ray cluster, for --launcher ray.", metavar="auto|HOST:PORT")
    jobs: int | None = option(None, "Runs at once (CPU: 1; GPU: one per GPU).", allowed=Range(1, 1024))
    data_dir: str | None = option(None, "Where data sets are.", metavar="DIR")
    skip_unreadable: int = option(
        0, "Images of a folder that may be left out if they cannot be decoded.", metavar="N", allowed=SKIPPED
    )
    tracking_uri: str | None = option(
        None, "MLflow tracking store  [default: sqlite:///mlruns/mlflow.db]", metavar="URI"
    )


@dataclass(frozen=True, kw_only=True)
class AttemptOptions:
    """How often and how long a cell is tried.

    Attributes:
        timeout: longest time of a run in s; None for no limit.
        retries: further attempts at a cell that failed, over all calls.
        checkpoint_every: epochs between two checkpoints of a run; 0 for none.
        fresh: whether to run what is finished again, under a new parent run.
    """

    heading: ClassVar = OFTEN

    timeout: float | None = option(None, "Longest time of a run.", metavar="SECONDS", allowed=SECONDS)
    retries: int = option(2, "Tries again of a failed cell, over all calls.", allowed=Range(0, 1000))
    checkpoint_every: int = option(0, "Checkpoint long runs.", metavar="EPOCHS", allowed=Range(0, 1_000_000))
    fresh: bool = option(False, "Run everything again, under a new parent run.")


@dataclass(frozen=True, kw_only=True)
class TuneOptions(LauncherOptions, CallOptions):
    """`ablate tune`: what is searched, for what, how long, and where it is kept.

    Attributes:
        model: of the tuned recipe.
        dataset: of the tuned recipe.
        objective: what to tune for.
        study: name or file of the study with the baseline's recipe; None for the device's default.
        settings: `FIELD=VALUE` of the baseline's recipe.
        techniques: names that are searched too, separated by commas.
        levels: `NAME=VALUE,VALUE` of searched techniques.
        batch_sizes: searched micro-batches (images), separated by commas.
        accumulation: searched accumulation steps, separated by commas.
        effective_batch: images per optimizer step that every configuration must have; None for any.
        memory_limit: peak memory in MiB that a configuration may need; None for the device's.
        target_accuracy: accuracy on the validation part, as a fraction, that `time` trains to.
        budget_samples: training images of a trial for `time`, `accuracy`, `pareto`; None for the recipe's epochs.
        budget_seconds: longest training in s of a trial for `time`, `accuracy`, `pareto`.
        trial_seconds: longest training in s of a trial for `throughput`, `memory`.
        interval_width: width of the 95 % interval of images/s, as a fraction, at which a throughput trial ends.
        trials: trials of the study, over all calls.
        timeout: longest time of the search in s.
        run_timeout: longest time of one trial in s.
        retries: further attempts at a trial that failed.
        top: configurations that are confirmed.
        confirm_blocks: blocks of the confirmation.
        seed: of the search and of its trials.
        name: of the Optuna study; None for one made from what is tuned.
        storage: URL of Optuna's storage; None for the default.
        join: whether to work on a study beside other processes.
        fresh: whether to forget the study's trials first.
    """

    heading: ClassVar = OFTEN
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        WHAT: ("model", "dataset", "objective", "study", "settings", "target_accuracy"),
        TUNING: ("techniques", "levels", "batch_sizes", "accumulation", "effective_batch", "memory_limit"),
        TRACKING: ("name", "storage", "join"),
    }
    reworded: ClassVar = {
        "launcher": "What runs the trials.",
        "jobs": "Trials at once (CPU: 1; GPU: one per GPU).",
        "dry_run": "Print the search space and run nothing.",
    }

    model: str = option(help="Model name, or timm:NAME.", metavar="M")
    dataset: str = option(help="Data set name, or imagefolder:DIR.", metavar="D")
    objective: str = option(
        "throughput", "What to tune for.", choices=("throughput", "time", "memory", "accuracy", "pareto")
    )
    study: str | None = option(None, "Study that the baseline recipe comes from.", metavar="NAME|FILE")
    settings: tuple[str, ...] = option((), "Field of the baseline recipe.", name="--set", metavar="FIELD=VALUE")
    techniques: str | None = option(None, "Techniques to search too, each off or on.", metavar="A,B")
    levels: tuple[str, ...] = option((), "Level(s) to search: amp=fp16,bf16.", name="--technique", metavar="NAME=VALUE")
    batch_sizes: str | None = option(None, "Micro-batches  [default: powers of two, multiples of 8]", metavar="N,N")
    accumulation: str | None = option(None, "Accumulation steps  [default: 1,2,4,...,64]", metavar="N,N")
    effective_batch: int | None = option(None, "Only configurations of this product.", metavar="N", allowed=IMAGES)
    memory_limit: float | None = option(
        None, "Peak memory that a configuration may need.", metavar="MIB", allowed=POSITIVE
    )
    target_accuracy: float | None = option(None, "For time: on validation.", allowed=SHARE)
    budget_samples: int | None = option(None, "Length of a trial  [default: the recipe's epochs]", allowed=IMAGES)
    budget_seconds: float | None = option(
        None, "Longest training of a trial for time, accuracy, pareto.", allowed=SECONDS
    )
    trial_seconds: float = option(5.0, "Longest training for throughput, memory.", allowed=SECONDS)
    interval_width: float = option(
        0.01,
        "A throughput trial ends when its 95 % interval is narrower than this share.",
        aliases=("--interval",),
        allowed=INNER_SHARE,
    )
    trials: int = option(30, "Trials of the study, over all calls.", allowed=Range(1, 100_000))
    timeout: float | None = option(None, "Longest time of the search.", metavar="SECONDS", allowed=SECONDS)
    run_timeout: float | None = option(None, "Longest time of one trial.", metavar="SECONDS", allowed=SECONDS)
    retries: int = option(AttemptOptions.retries, "Tries again of a failed trial.", allowed=Range(0, 1000))
    top: int = option(3, "Configurations that are confirmed.", allowed=Range(1, 100))
    confirm_blocks: int = option(6, "Blocks of the confirmation.", allowed=Range(1, 1000))
    seed: int = option(0, "Of the search and its trials.", allowed=Range(0, 2**31 - 1))
    name: str | None = option(None, "Of the Optuna study  [default: from what is tuned]", metavar="NAME")
    storage: str | None = option(None, "Optuna storage  [default: sqlite:///mlruns/optuna.db]", metavar="URL")
    join: bool = option(False, "Work on a study together with other processes.")
    fresh: bool = option(False, "Forget the study's trials and start over.")


@dataclass(frozen=True, kw_only=True)
class PlanOptions(LauncherOptions, AttemptOptions, CallOptions):
    """What `ablate grid` and `ablate run` share; None or empty where the command line said nothing.

    Attributes:
        study: name or file; None for the device's default.
        name: what the study is called, and its experiment; None for the study file's, or one made from what is chosen.
        levels: `NAME=VALUE,VALUE` of techniques.
        seeds: blocks, each with its own seed; None for the study's.
        settings: `FIELD=VALUE` of every cell's recipe.
    """

    heading: ClassVar = WHAT
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {OFTEN: ("seeds",)}

    study: str | None = option(None, "Study by name or YAML file.", metavar="NAME|FILE")
    name: str | None = option(
        None, "What to call it: experiment, status, report  [default: from what is chosen]", metavar="NAME"
    )
    levels: tuple[str, ...] = option((), "Level(s) of a technique: ga=8.", name="--technique", metavar="NAME=VALUE")
    seeds: int | None = option(None, "Number of blocks, each with its own seed.", allowed=Range(1, 100_000))
    settings: tuple[str, ...] = option((), "Recipe field, for every cell.", name="--set", metavar="FIELD=VALUE")


@dataclass(frozen=True, kw_only=True)
class GridOptions(PlanOptions):
    """`ablate grid`.

    Attributes:
        models: names separated by commas; None or `all` for the study's.
        datasets: names separated by commas; None or `all` for the study's.
        techniques: names separated by commas; None or `all` for the study's, `none` for the baseline alone.
        until_decided: whether to add blocks until every main effect on the training time is precise.
        interval_width: whole width of an effect's 95 % interval, as a fraction, to which it is precise.
        max_blocks: blocks after which `until_decided` gives up.
        rerun_tainted: whether to measure cells again that something disturbed.
        nproc: processes of one run, data-parallel.
        design: full or fractional factorial; None for the study's.
        target_accuracy: accuracy on the validation part, as a fraction, to which each run's training is timed too; None
            for none. It changes nothing about a run.
        estimate: whether to have each model train for some seconds to say how long all takes, and to do nothing else.
        tuned: whether to tune each (model, data set) first.
        tune_trials: trials of each search of `tuned`.
        tune_seconds: longest training in s of a trial of `tuned`.
        storage: URL of Optuna's storage of `tuned`; None for the default.
        overrides: recipes of (model, data set) that tuning found, as in a study file; not on the command line.
    """

    heading: ClassVar = WHAT
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        OFTEN: ("until_decided", "interval_width", "max_blocks", "rerun_tainted"),
        TUNING: ("tuned", "tune_trials", "tune_seconds", "storage"),
        WHERE: ("nproc",),
        OUTPUT: ("estimate",),
    }
    single: ClassVar = False

    models: str | None = option(None, "Models: the study's, names, or timm:NAME.", metavar="all|A,B")
    datasets: str | None = option(None, "Data sets: the study's, names, or imagefolder:DIR.", metavar="all|A,B")
    techniques: str | None = option(None, "Techniques that make the factorial design.", metavar="all|A,B")
    until_decided: bool = option(False, "Add blocks until effects are precise, significant or not.")
    interval_width: float = option(0.02, "Precise to this width of intervals.", aliases=("--precision",), allowed=SHARE)
    max_blocks: int = option(20, "Where --until-decided gives up.", allowed=Range(1, 100_000))
    rerun_tainted: bool = option(False, "Measure cells again that something disturbed.")
    nproc: int = option(1, "Processes per run, data-parallel (one GPU each).", allowed=Range(1, 1024))
    design: str | None = option(None, "Full factorial or resolution-IV fraction.", choices=("full", "fractional"))
    target_accuracy: float | None = option(None, "Time the training to this accuracy, too.", allowed=SHARE)
    estimate: bool = option(False, "Like --dry-run; train each model for 10 s to say how long all takes.")
    tuned: bool = option(False, "First tune each (model, data set), once, and freeze its recipe.")
    tune_trials: int = option(TuneOptions.trials, "Trials of each search of --tuned.", allowed=Range(1, 100_000))
    tune_seconds: float = option(
        TuneOptions.trial_seconds, "Longest training of a trial of --tuned.", metavar="SECONDS", allowed=SECONDS
    )
    storage: str | None = option(
        None, "Optuna storage of --tuned  [default: sqlite:///mlruns/optuna.db]", metavar="URL"
    )
    overrides: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunOptions(GridOptions):
    """`ablate run`: a grid of one cell, so without what only several cells can have.

    Attributes:
        models: one name.
        datasets: one name.
        techniques: names of those that are on, separated by commas; `none` for the baseline.
    """

    heading: ClassVar = WHAT
    single: ClassVar = True
    omitted: ClassVar = (
        *("until_decided", "interval_width", "max_blocks", "rerun_tainted", "design", "target_accuracy", "estimate"),
        *("tuned", "tune_trials", "tune_seconds", "storage"),
    )
    unshown: ClassVar = ("seeds", "jobs", "retries")  # of one cell: understood, as ever, and good for nothing
    reworded: ClassVar = {"fresh": "Begin anew where an earlier try has left a checkpoint."}

    models: str = option(help="Model name, or timm:NAME.", name="--model", metavar="M")
    datasets: str = option(help="Data set name, or imagefolder:DIR.", name="--dataset", metavar="D")
    techniques: str = option("none", "Techniques that are on.", metavar="none|A,B")


@dataclass(frozen=True, kw_only=True)
class SpeedOptions(GridOptions):
    """`ablate speed`: a grid of which all cells are alive at once and take turns.

    Attributes:
        precision: half width of the 95 % intervals of main effects and of techniques alone, as a fraction, at which
            rounds are enough.
        max_seconds: time after which no round begins; None for no limit.
        min_rounds: rounds of each (model, data set), at least.
        timeout: longest time of a cell's set-up, or of a turn, in s; None for no limit.
    """

    heading: ClassVar = OFTEN
    omitted: ClassVar = (
        *("until_decided", "interval_width", "max_blocks", "rerun_tainted", "nproc", "target_accuracy"),
        *("tuned", "tune_trials", "tune_seconds", "storage", "retries", "checkpoint_every", "seeds"),
    )
    reworded: ClassVar = {
        "launcher": "Where the cells stand: local, or on the nodes of a Ray cluster.",
        "jobs": "Groups at once (CPU: 1; GPU: one per GPU).",
        "timeout": "Longest time of a cell's set-up, or of a turn.",
        "fresh": "Measure everything again, under a new parent run.",
    }

    precision: float = option(0.01, "Half width of the intervals at which rounds are enough.", allowed=INNER_SHARE)
    max_seconds: float | None = option(600.0, "No round begins after it.", metavar="S", allowed=SECONDS)
    min_rounds: int = option(8, "Rounds of each model and data set, at least.", allowed=Range(8, 10_000))
    timeout: float | None = option(
        300.0, "Longest time of a cell's set-up, or of a turn.", metavar="SECONDS", allowed=SECONDS
    )
