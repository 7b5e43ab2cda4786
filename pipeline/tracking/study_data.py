"""A study as data frames, read from the tracking store by nothing but the names of the contract."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.design.names import (
    COMMAND_LINE_TAG,
    COMMAND_TAG,
    DIGEST_TAG,
    EPOCH_SECONDS,
    KIND_TAG,
    RECIPE_PARAM,
    RUNNING_STATE,
    TARGET_TAG,
    TECHNIQUES_TAG,
    TRAIN_LOSS,
    VAL_ACCURACY,
)
from pipeline.design.spec import AS_BEFORE
from pipeline.errors import InputError
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.round_data import RunSource, by_opening, factors_of, parents_of, youngest_rounds
from pipeline.tracking.uri import resolve_uri, sqlite_file

if TYPE_CHECKING:
    import pandas as pd

CURVES = (VAL_ACCURACY, TRAIN_LOSS)  # the first that was measured is read
MAX_CURVE_RUNS = 400
TARGET_CURVES = (VAL_ACCURACY, EPOCH_SECONDS)  # read of every run, where a target accuracy is asked for


def _no_points() -> pd.DataFrame:
    import pandas as pd  # commands that only plan a study import this module, too

    return pd.DataFrame()


@dataclass(frozen=True)
class StudyData:
    """What the tracking store knows about one study.

    Attributes:
        name: The study's name; text from the user, so it may be hostile.
        runs: One row per child run, columns named as `mlflow.search_runs` names them.
        history: Per-epoch metrics, columns `run_id, key, step, timestamp, value`; may be empty.
        techniques: The study's techniques in order; empty means "derive them from the on/off params".
        target_accuracy: The validation accuracy, as a fraction, whose `TARGET_CURVES` were read; None for none.
        rounds: What its cells measured when they took turns (`ablate speed`), one row for each cell and round in the
            columns of `runs`; may be empty.
        commands: The command lines that made `runs` and `rounds`, as far as their parent runs have them.
    """

    name: str
    runs: pd.DataFrame
    history: pd.DataFrame = field(default_factory=_no_points)
    techniques: tuple[str, ...] = ()
    target_accuracy: float | None = None
    rounds: pd.DataFrame = field(default_factory=_no_points)
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", _as_before(self.runs))
        object.__setattr__(self, "rounds", _as_before(self.rounds))


def _as_before(runs: pd.DataFrame) -> pd.DataFrame:
    """Says of rows that were written before a recipe field there was what the field means for them."""
    prefix = f"params.{RECIPE_PARAM}"
    recipe = [str(name) for name in runs.columns if str(name).startswith(prefix)]
    if not recipe:
        return runs
    known = runs[recipe].notna().any(axis=1)
    for name, value in AS_BEFORE.items():
        column = runs[prefix + name] if prefix + name in runs else runs[recipe[0]].where(~known).astype(object)
        runs = runs.assign(**{prefix + name: column.mask(known & column.isna(), str(value))})
    return runs


def load_study_data(name: str, tracking_uri: str | None, state_dir: Path, *, curves: bool) -> tuple[StudyData, str]:
    """Reads a study: the children of its youngest grid, or all runs where no parent is tagged.

    Args:
        name: Name of the study's experiment.
        tracking_uri: The flag's value.
        state_dir: Folder of a local store's artifacts (`mlruns`).
        curves: Whether per-epoch metrics are wanted too.

    Returns:
        The `StudyData`, and the parent's run id (empty when there is none).

    Raises:
        InputError: No such study, or it has no runs.
        OutsideError: The store cannot be reached.
    """
    uri = resolve_uri(tracking_uri)
    source = mlflow_sqlite.open_reader(sqlite_file(uri), name) or client_of(uri, name, state_dir)
    return read_study_data(source, name, curves=curves)


def last_study(uri: str, state_dir: Path) -> tuple[str, str] | None:
    """The study that was worked on last in a store.

    Args:
        uri: Absolute tracking URI.
        state_dir: Folder of a local store's artifacts (`mlruns`).

    Returns:
        The study's name, and that of its experiment; None where there is none.

    Raises:
        OutsideError: The store cannot be reached.
    """
    file = sqlite_file(uri)
    return client_of(uri, "Default", state_dir).last_parent() if file is None else mlflow_sqlite.last_parent(file)


def client_of(uri: str, name: str, state_dir: Path) -> MlflowStore:
    """A study's store through MLflow's client, connected.

    Args:
        uri: Absolute tracking URI.
        name: Name of the study's experiment.
        state_dir: Folder of a local store's artifacts (`mlruns`).

    Raises:
        InputError: There is no such store, or no such study in it.
        OutsideError: It cannot be reached.
    """
    store = MlflowStore(uri, name, state_dir / "artifacts")
    store.connect(create=False)
    if not store.connection.experiment_id:
        raise unknown_study(name, store.connection.studies())
    return store


def unknown_study(name: str, known: Sequence[str]) -> InputError:
    """Says that a store has no such study, and which it has: one that was renamed in MLflow has its new name.

    Args:
        name: What was asked for.
        known: Studies in the store.
    """
    allowed = ", ".join(known) if known else "none; ablate grid makes one"
    return InputError(f"study {name!r}: not in the tracking store; allowed: {allowed}")


def read_study_data(
    source: RunSource, name: str, *, curves: bool, target_accuracy: float | None = None
) -> tuple[StudyData, str]:
    """Reads a study as `load_study_data` does.

    Args:
        source: Where its runs are read.
        name: The study's name, for data and messages.
        curves: Whether per-epoch metrics are wanted too.
        target_accuracy: Validation accuracy, as a fraction, the time to which is wanted; None for the parent run's.

    Raises:
        InputError: It has no runs.
    """
    runs = source.frame()
    if runs.empty:
        raise InputError(f"study {name!r}: no runs in the tracking store; allowed: a study that has been run")
    everything = runs
    runs, parent = finished_runs(everything, name)
    grid = everything[everything["run_id"] == parent].to_dict("records") if parent else []
    factors = factors_of(grid[0]) if grid else ""
    rounds, in_turns = youngest_rounds(source, everything, name, factors)
    if runs.empty and len(rounds):  # nothing but `ablate speed`
        runs, parent = rounds, in_turns
    if runs.empty:
        raise InputError(f"study {name!r}: its youngest grid has no runs yet; allowed: a study that has been run")
    tags = source.tags_of(parent) if parent else {}
    techniques = tuple(name for name in tags.get(TECHNIQUES_TAG, "").split(",") if name)
    target = (target_accuracy or _fraction(tags.get(TARGET_TAG, ""))) if curves else None
    wanted = runs["run_id"].tolist() if curves and (target or len(runs) <= MAX_CURVE_RUNS) else []
    measured = [key for key in CURVES if f"metrics.{key}" in runs][:1]  # the report draws the first that there is
    if target:
        measured = list(dict.fromkeys([*measured, *TARGET_CURVES]))
    turned = source.tags_of(in_turns) if in_turns and in_turns != parent else {}
    commands = tuple(each[COMMAND_LINE_TAG] for each in (tags, turned) if COMMAND_LINE_TAG in each)
    return StudyData(name, runs, source.history(wanted, measured), techniques, target, rounds, commands), parent


def _fraction(text: str) -> float | None:
    """Reads a share in (0, 1] that any program may have written."""
    try:
        return float(text) if 0 < float(text) <= 1 else None
    except ValueError:
        return None


def finished_runs(runs: Any, study: str = "", digests: Collection[str] | None = None) -> tuple[Any, str]:
    """Picks the runs of a study's youngest grid that have ended; all cells' runs where no parent is tagged.

    Args:
        runs: One row per run of the experiment, as `RunSource.frame` gives them.
        study: Its name: grids of others in one experiment do not count, where any is of this one.
        digests: Of cells, of which the grid has to have one; None for any.

    Returns:
        Those rows, and the parent's run id (empty when there is none).
    """
    kind = runs.get(f"tags.{KIND_TAG}")
    if kind is None:
        return runs, ""
    rows = runs[kind.isin(("run", "sentinel"))]
    parent_of = rows.get("tags.mlflow.parentRunId")
    if parent_of is not None:  # trials of a tuning are measured otherwise than cells
        rows = rows[~parent_of.isin(set(runs[kind == "tune"]["run_id"]))]
        parent_of = rows["tags.mlflow.parentRunId"]
    parents = runs[kind == "grid"]
    command = parents.get(f"tags.{COMMAND_TAG}")
    if command is not None and (command == "grid").any():
        parents = parents[command == "grid"]
    if parents.empty or parent_of is None:
        return rows, ""
    having = rows if digests is None else rows[rows[f"tags.{DIGEST_TAG}"].isin(set(digests))]
    parents = parents_of(parents[parents["run_id"].isin(set(having["tags.mlflow.parentRunId"]))], study)
    if parents.empty:
        return rows.iloc[0:0], ""
    youngest = str(by_opening(parents)["run_id"].iloc[-1])
    chosen = rows[parent_of == youngest]
    # a run that is still going has no numbers yet
    return chosen[chosen["status"] != RUNNING_STATE].reset_index(drop=True), youngest
