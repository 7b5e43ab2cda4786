"""What the command line can say to the commands that read, serve and prepare: one frozen class per command.

`design.options` has the classes of those that train, and how an option is declared.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.design.options import (
    INNER_SHARE,
    POSITIVE,
    SHARE,
    SKIPPED,
    JsonOptions,
    LauncherOptions,
    Range,
    argument,
    option,
)


@dataclass(frozen=True, kw_only=True)
class DataDirOptions:
    """Where data sets are.

    Attributes:
        data_dir: folder; None for the user's cache.
    """

    data_dir: str | None = option(None, "Where data sets are.", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class StoreOptions(JsonOptions):
    """What the commands that read a tracking store share.

    Attributes:
        tracking_uri: MLflow's store; None for the default.
    """

    tracking_uri: str | None = option(None, "MLflow tracking store.", metavar="URI")


@dataclass(frozen=True, kw_only=True)
class ListOptions(StoreOptions):
    """`ablate list`.

    Attributes:
        kind: what is listed.
        pattern: names that are wanted, as those of files (`*convnext*`), or a part of them; None for all.
    """

    kind: str = argument(choices=("techniques", "models", "datasets", "studies", "fields"))
    pattern: str | None = argument(None)


@dataclass(frozen=True, kw_only=True)
class StatusOptions(StoreOptions):
    """`ablate status`.

    Attributes:
        study: name or file; None for the one that was worked on last.
    """

    study: str | None = argument(None)


@dataclass(frozen=True, kw_only=True)
class ChangeOptions(StoreOptions):
    """What the commands share that take something away.

    Attributes:
        dry_run: whether to say what would be done, and do nothing.
        yes: whether nobody is asked.
    """

    dry_run: bool = option(False, "Say what would be done, with paths and sizes, and do nothing.")
    yes: bool = option(False, "Do not ask.")


@dataclass(frozen=True, kw_only=True)
class DeleteOptions(ChangeOptions):
    """`ablate delete`.

    Attributes:
        study: its name.
        purge: whether its runs go for good, too.
    """

    study: str = argument()
    purge: bool = option(False, "Remove its runs and artifacts from the store for good (mlflow gc).")


@dataclass(frozen=True, kw_only=True)
class RenameOptions(ChangeOptions):
    """`ablate rename`.

    Attributes:
        study: its name.
        new: the name that it gets.
    """

    study: str = argument()
    new: str = argument()


@dataclass(frozen=True, kw_only=True)
class CleanOptions(DataDirOptions, JsonOptions):
    """`ablate clean`.

    Attributes:
        days: what nobody has used for so many days is removed.
        dry_run: whether to say what would be removed, and remove nothing.
        yes: whether nobody is asked.
    """

    days: int = option(7, "Only what nobody has used for so long.", metavar="DAYS", allowed=Range(0, 36_500))
    dry_run: bool = option(False, "Say what would be removed, with paths and sizes, and remove nothing.")
    yes: bool = option(False, "Do not ask.")


@dataclass(frozen=True, kw_only=True)
class SyncOptions(StoreOptions):
    """`ablate sync`.

    Attributes:
        all: whether journals that are delivered are compared with the store, too.
    """

    all: bool = option(False, "Journals that are delivered, too: an older state of the store was restored.")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(DataDirOptions, StoreOptions):
    """`ablate doctor`."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(StoreOptions):
    """`ablate report`.

    Attributes:
        study: name or file; None for the one that was worked on last.
        out: folder of the report; None for the default.
        figures: whether the figures are written as files, too.
        paper: whether to write the audit of the paper's claims too.
        memory_limit: peak memory in MiB that a recommended setting may need; None for any.
        margin: smallest ratio of times that counts as an effect, as a fraction.
        accuracy_margin: loss of accuracy in percentage points that still counts as none.
        target_accuracy: accuracy on the validation part, as a fraction, the time to which is a response too; None for
            the grid's.
        log: whether the files go to the study's parent run in the tracking store, too.
    """

    study: str | None = argument(None)
    out: str | None = option(None, "Folder for the report  [default: mlruns/reports/STUDY]", metavar="DIR")
    figures: bool = option(False, "The figures as SVG, PNG and PDF files, too.")
    paper: bool = option(False, "Audit of arXiv 2312.10024: its claims beside our measurement.")
    memory_limit: float | None = option(None, "For the recommendation.", metavar="MIB", allowed=POSITIVE)
    margin: float = option(0.01, "No-effect margin.", allowed=INNER_SHARE)
    accuracy_margin: float = option(
        1.0,
        "Non-inferiority margin of accuracy.",
        metavar="POINTS",
        allowed=Range(0, 100, low_open=True),
    )
    target_accuracy: float | None = option(None, "Effects on the time to it  [default: the grid's]", allowed=SHARE)
    log: bool = option(False, "Put the files on the study's parent run in the tracking store, too.")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(JsonOptions):
    """`ablate compare`.

    Attributes:
        study_a: name of the study that is compared with.
        study_b: name of the study that is compared.
        tracking_uri: MLflow's store of A; None for the default.
        tracking_uri_b: MLflow's store of B; None for that of A.
        out: folder for the comparison's files; None for none.
    """

    study_a: str = argument()
    study_b: str = argument()
    tracking_uri: str | None = option(None, "MLflow tracking store (of A).", metavar="URI")
    tracking_uri_b: str | None = option(None, "Tracking store of B, if another.", metavar="URI")
    out: str | None = option(None, "Folder for its tables: Markdown, JSON and CSV.", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class BenchArguments(JsonOptions):
    """`ablate bench`, as it was typed.

    Attributes:
        models: names separated by commas; None for the default.
        only: names of the wanted rows, separated by commas; None for all.
        blocks: fresh processes per model; None for the default.
        windows: optimizer steps of one timed epoch; None for the default.
        batch: images per step; None for the model's.
        device: `auto` is CUDA where there is a GPU.
        grid_study: name or file of the study of `grid_overhead`.
        full: whether to measure the report's cost at 100,000 cells too.
        out: folder for the results; None for none.
    """

    models: str | None = option(None, "Models to race  [default: test_resnet,resnet50]", metavar="A,B")
    only: str | None = option(
        None, "Only these rows: over_bare, .., gather_over_loader, grid_overhead, scaling.", metavar="NAMES"
    )
    blocks: int | None = option(None, "Fresh processes per model; the interval is over them.", allowed=Range(1, 1000))
    windows: int | None = option(None, "Optimizer steps of one timed epoch.", allowed=Range(1, 100_000))
    batch: int | None = option(None, "Images per step  [default: by model]", allowed=Range(2, 100_000))
    device: str = option(LauncherOptions.device, "Where to train.", choices=("auto", "cuda", "cpu"))
    grid_study: str = option("quickstart", "Study of grid_overhead.", metavar="NAME|FILE")
    full: bool = option(False, "The report's cost at 100,000 cells too (minutes).")
    out: str | None = option(None, "Folder for bench.json and bench.md; written after every part.", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """`ablate ui`.

    Attributes:
        study: name or file of the study whose runs are shown first; None for the one with the youngest run.
        tracking_uri: MLflow's store; None for the default.
        optuna: whether to serve the tunings instead.
        storage: URL of Optuna's storage; None for the default.
        host: address to listen on.
        port: TCP port to listen on.
    """

    study: str | None = argument(None)
    tracking_uri: str | None = option(None, "MLflow tracking store.", metavar="URI")
    optuna: bool = option(False, "Open optuna-dashboard on the tunings instead.")
    storage: str | None = option(
        None, "Optuna storage of --optuna  [default: sqlite:///mlruns/optuna.db]", metavar="URL"
    )
    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(5000, "Port to listen on.", allowed=Range(1, 65535))


@dataclass(frozen=True, kw_only=True)
class DataOptions(DataDirOptions):
    """`ablate data prepare` and `ablate data verify`.

    Attributes:
        names: the data sets.
        skip_unreadable: images of a folder that may be left out because they cannot be decoded.
    """

    names: tuple[str, ...] = argument()
    skip_unreadable: int = option(
        0, "Images of a folder that may be left out if they cannot be decoded.", metavar="N", allowed=SKIPPED
    )


@dataclass(frozen=True, kw_only=True)
class AbOptions(JsonOptions):
    """`ablate ab`.

    Attributes:
        command_a: command line of what is compared with.
        command_b: command line of what is compared.
        metric: name of what they print as `METRIC name=value`; None for the time that they take.
        better: whether less or more of it is better.
        margin: how much worse B may be, as a fraction.
        precision: half width of an interval around 1, as a fraction, that is narrow enough for "the same".
        min_pairs: pairs at the first look.
        max_pairs: pairs at the last look.
        max_seconds: after which no pair begins; None for no limit.
        timeout: longest time of one run, in s.
        warmups: runs of each command that are thrown away first.
        seed: of the order within the pairs.
    """

    command_a: str = argument()
    command_b: str = argument()
    metric: str | None = option(None, "Compare what they print as METRIC NAME=VALUE, not their time.", metavar="NAME")
    better: str = option("lower", "Which values of the metric are better.", choices=("lower", "higher"))
    margin: float = option(0.0, "B may be worse by so much (0.02: 2 %).", allowed=Range(0, 1))
    precision: float = option(0.01, 'Half width of the interval that says "the same".', allowed=INNER_SHARE)
    min_pairs: int = option(8, "Pairs at the first look.", allowed=Range(2, 10_000))
    max_pairs: int = option(40, "Pairs at the last look.", allowed=Range(2, 10_000))
    max_seconds: float | None = option(None, "No pair begins after it.", metavar="S", allowed=POSITIVE)
    timeout: float = option(3600.0, "Longest time of one run.", metavar="S", allowed=POSITIVE)
    warmups: int = option(1, "Runs of each command that are thrown away first.", allowed=Range(0, 100))
    seed: int = option(0, "Of the order within the pairs.", allowed=Range(0, 2**31 - 1))
