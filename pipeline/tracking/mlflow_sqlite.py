"""Reads runs straight from the tables of a local SQLite tracking store, without MLflow.

MLflow takes 4 s to import and as long again to build its objects for some hundred runs, which is most of the time of a
report. The columns read here are those of MLflow's documented data model; a store that lacks one, or that
cannot be read for any other reason, is left to MLflow's client (`open_reader` gives None), which also tells the reason.
A test compares what both give.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.design.names import KEY_TAG, KIND_TAG, MODEL_PARAM, OUTCOME_TAG, RUNNING_STATE, TOTAL_SECONDS
from pipeline.tracking.attempts import Attempt, attempt_of

if TYPE_CHECKING:
    import pandas as pd

_OF_RUNS = "FROM {table} JOIN runs USING (run_uuid) WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active'"


@dataclass(frozen=True)
class SqliteReader:
    """An active experiment in a SQLite file.

    Attributes:
        file: The database.
        experiment_id: MLflow's.
        experiment: Its name.
    """

    file: Path
    experiment_id: int
    experiment: str

    def frame(self) -> pd.DataFrame:
        """As `MlflowStore.frame`."""
        import pandas as pd

        with closing(_connect(self.file)) as connection:
            rows: dict[str, dict[str, Any]] = {}
            for run_id, status, start, end in connection.execute(
                "SELECT run_uuid, status, start_time, end_time FROM runs "
                "WHERE experiment_id = ? AND lifecycle_stage = 'active' ORDER BY start_time DESC, run_uuid",
                (self.experiment_id,),
            ):
                rows[run_id] = {"run_id": run_id, "status": status, "start_time": start, "end_time": end}
            for table, prefix in (("params", "params."), ("latest_metrics", "metrics."), ("tags", "tags.")):
                unknown = f"{table}.is_nan" if table == "latest_metrics" else "0"
                query = f"SELECT run_uuid, {table}.key, {table}.value, {unknown} {_OF_RUNS.format(table=table)}"
                for run_id, key, value, is_nan in connection.execute(query, (self.experiment_id,)):
                    if run_id in rows:  # a run may have been opened since
                        rows[run_id][prefix + key] = math.nan if is_nan else value
        return pd.DataFrame(list(rows.values()))

    def history(self, run_ids: Iterable[str], keys: Sequence[str]) -> pd.DataFrame:
        """As `MlflowStore.history`."""
        import pandas as pd

        points = []
        with closing(_connect(self.file)) as connection:
            for run_id in run_ids:
                for key in keys:
                    points += connection.execute(
                        "SELECT run_uuid, key, step, timestamp, CASE WHEN is_nan THEN NULL ELSE value END "
                        "FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY timestamp, step, value",
                        (run_id, key),
                    ).fetchall()
        found = pd.DataFrame(points, columns=["run_id", "key", "step", "timestamp", "value"])
        return found.astype({"value": float}) if points else found

    def tags_of(self, run_id: str) -> dict[str, str]:
        """As `MlflowStore.tags_of`."""
        with closing(_connect(self.file)) as connection:
            return dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)).fetchall())

    def attempts(self) -> list[Attempt]:
        """As `MlflowStore.attempts`, of all cells."""
        with closing(_connect(self.file)) as connection:
            query = (
                "SELECT run_uuid, status, start_time FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"
            )
            runs = connection.execute(query, (self.experiment_id,)).fetchall()
            tags: dict[str, dict[str, str]] = {}
            query = f"SELECT run_uuid, tags.key, tags.value {_OF_RUNS.format(table='tags')}"
            for run_id, name, value in connection.execute(query, (self.experiment_id,)):
                tags.setdefault(run_id, {})[name] = str(value)
        return [
            attempt_of(
                tags[run_id][KEY_TAG],
                tags[run_id],
                start_time=int(start or 0),
                parent=tags[run_id].get("mlflow.parentRunId", ""),
                outcome="" if status == RUNNING_STATE else tags[run_id].get(OUTCOME_TAG) or "failed",
                run_id=run_id,
            )
            for run_id, status, start in runs
            if KEY_TAG in tags.get(run_id, {})
        ]

    def artifact_uri(self, run_id: str) -> str:
        """Where a run's artifacts are."""
        with closing(_connect(self.file)) as connection:
            query = "SELECT artifact_uri FROM runs WHERE run_uuid = ?"
            return str(connection.execute(query, (run_id,)).fetchone()[0])


def open_reader(file: Path | None, experiment: str) -> SqliteReader | None:
    """Finds an active experiment in a SQLite file; None where only MLflow's client can say what there is.

    Args:
        file: The database; None for a store that is no file.
        experiment: Its name.
    """
    if file is None or not file.is_file():
        return None
    try:
        with closing(_connect(file)) as connection:
            for query in (
                "SELECT run_uuid, status, start_time, end_time, lifecycle_stage, experiment_id, artifact_uri "
                "FROM runs LIMIT 0",
                "SELECT run_uuid, key, value FROM params LIMIT 0",
                "SELECT run_uuid, key, value FROM tags LIMIT 0",
                "SELECT run_uuid, key, value, is_nan FROM latest_metrics LIMIT 0",
                "SELECT run_uuid, key, value, is_nan, step, timestamp FROM metrics LIMIT 0",
            ):
                connection.execute(query)
            found = connection.execute(
                "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'", (experiment,)
            ).fetchall()
    except sqlite3.Error:
        return None
    # one name in two workspaces: ask the client
    return SqliteReader(file, int(found[0][0]), experiment) if len(found) == 1 else None


def count_runs(file: Path) -> dict[str, int] | None:
    """Name of each active experiment with runs of ours -> its runs, parents not counted; None where MLflow has to tell.

    Args:
        file: The database.
    """
    query = (
        "SELECT experiments.name, SUM(tags.value IN ('run', 'sentinel', 'turns')) "
        "FROM experiments JOIN runs USING (experiment_id) JOIN tags USING (run_uuid) WHERE tags.key = ? "
        "AND experiments.lifecycle_stage = 'active' AND runs.lifecycle_stage = 'active' GROUP BY experiment_id"
    )
    try:
        with closing(_connect(file)) as connection:
            return {str(name): int(runs) for name, runs in connection.execute(query, (KIND_TAG,))}
    except sqlite3.Error:
        return None


def run_times(file: Path, models: Collection[str], most: int = 2000) -> list[tuple[dict[str, str], float]]:
    """Params and time in s of the youngest finished runs of some models, in all studies; none where it cannot be read.

    Args:
        file: The database.
        models: Their names.
        most: Runs that are read.
    """
    marks = ", ".join("?" * len(models))
    query = (
        "SELECT run_uuid, latest_metrics.value FROM runs JOIN params USING (run_uuid) JOIN latest_metrics "
        "USING (run_uuid) WHERE lifecycle_stage = 'active' AND status = 'FINISHED' AND params.key = ? AND "
        f"latest_metrics.key = ? AND params.value IN ({marks}) ORDER BY start_time DESC LIMIT ?"
    )
    try:
        with closing(_connect(file)) as connection:
            found = connection.execute(query, (MODEL_PARAM, TOTAL_SECONDS, *models, most)).fetchall()
            each = "SELECT key, value FROM params WHERE run_uuid = ?"
            return [(dict(connection.execute(each, (run_id,)).fetchall()), float(time)) for run_id, time in found]
    except sqlite3.Error:
        return []


def _connect(file: Path) -> sqlite3.Connection:
    """Opens it for reading only, also where nothing can be written: SQLite wants a file beside it for its log."""
    address = file.resolve().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=30)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.OperationalError:
        connection.close()
        log = file.with_name(f"{file.name}-wal")
        if os.access(file.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        # nobody can write it either, so that it is what the file says
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, timeout=30)
    return connection
