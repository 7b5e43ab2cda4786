"""Reads runs straight from the tables of a local SQLite tracking store, without MLflow.

MLflow takes 4 s to import and as long again to build its objects for some hundred runs, which is most of the time of a
report. The columns read here are those of MLflow's documented data model; a store that lacks one, or that
cannot be read for any other reason, is left to MLflow's client (`open_reader` gives None), which also tells the reason.
A test compares what both give.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.design.names import (
    DIGEST_TAG,
    FINISHED_STATE,
    KEY_TAG,
    KIND_TAG,
    MODEL_PARAM,
    OPENED_TAG,
    OUTCOME_TAG,
    RUNNING_STATE,
    STUDY_TAG,
    TOTAL_SECONDS,
)
from pipeline.tracking.attempts import Attempt, attempt_of, opened_at

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

    def values_by_digest(self) -> dict[str, dict[str, float]]:
        """As `MlflowStore.values_by_digest`."""
        found: dict[str, dict[str, float]] = {}
        with closing(_connect(self.file)) as connection:
            digests = connection.execute(
                f"SELECT run_uuid, tags.value {_OF_RUNS.format(table='tags')} AND tags.key = ? "
                "AND runs.status = ? ORDER BY start_time DESC, run_uuid",
                (self.experiment_id, DIGEST_TAG, FINISHED_STATE),
            )
            values_of: dict[str, dict[str, float]] = {}
            for run_id, digest in digests:
                values_of[run_id] = {}
                found[str(digest)] = values_of[run_id]
            query = (
                "SELECT run_uuid, latest_metrics.key, latest_metrics.value, latest_metrics.is_nan "
                + _OF_RUNS.format(table="latest_metrics")
            )
            for run_id, key, value, is_nan in connection.execute(query, (self.experiment_id,)):
                if run_id in values_of:
                    values_of[run_id][key] = math.nan if is_nan else value
        return found

    def experiment_tags(self) -> dict[str, str]:
        """Tags of the experiment."""
        with closing(_connect(self.file)) as connection:
            query = "SELECT key, value FROM experiment_tags WHERE experiment_id = ?"
            return dict(connection.execute(query, (self.experiment_id,)).fetchall())

    def count_runs(self) -> int:
        """How many runs it has, of whatever kind."""
        with closing(_connect(self.file)) as connection:
            query = "SELECT COUNT(*) FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"
            return int(connection.execute(query, (self.experiment_id,)).fetchone()[0])

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
    # one name in two workspaces: ask the client
    found = [number for number, name in _experiments(file) or () if name == experiment]
    return SqliteReader(file, found[0], experiment) if file is not None and len(found) == 1 else None


def open_readers(file: Path | None) -> list[SqliteReader] | None:
    """Finds all active experiments in a SQLite file, oldest first; None as `open_reader`.

    Args:
        file: The database; None for a store that is no file.
    """
    found = _experiments(file)
    return None if file is None or found is None else [SqliteReader(file, *one) for one in found]


def _experiments(file: Path | None) -> list[tuple[int, str]] | None:
    """Number and name of each active experiment; None where a table or column is missing, or nothing can be read."""
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
                "SELECT experiment_id, key, value FROM experiment_tags LIMIT 0",
            ):
                connection.execute(query)
            query = (
                "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active' ORDER BY experiment_id"
            )
            return [(int(number), str(name)) for number, name in connection.execute(query)]
    except sqlite3.Error:
        return None


def tables_are_current(file: Path) -> bool:
    """Whether the installed MLflow would open this database as it is.

    MLflow refuses tables of another version until `mlflow db upgrade` has changed them. It knows a version by the last
    of its migrations; each is a file of its own that names the one before it, so that nothing has to be imported.

    Args:
        file: The database.
    """
    library = find_spec("mlflow")
    if library is None or library.origin is None:
        return False
    steps = list((Path(library.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"))
    try:
        with closing(_connect(file)) as connection:
            versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        if len(versions) != 1:
            return False
        last = str(versions[0][0])
        texts = [path.read_text(encoding="utf-8") for path in steps]
    except (sqlite3.Error, OSError, ValueError):
        return False
    known = any(path.name.startswith(f"{last}_") for path in steps)
    return known and not any(
        re.search(rf"""^down_revision = ["']{re.escape(last)}["']""", text, re.M) for text in texts
    )


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


def last_parent(file: Path | None) -> tuple[str, str] | None:
    """The study that a call of `ablate grid`, `run` or `speed` began to work on last; None where there is none.

    Args:
        file: The database; None for a store that is no file.

    Returns:
        The study's name, and that of its experiment.
    """
    if file is None or not file.is_file():
        return None
    try:
        with closing(_connect(file)) as connection:
            found = connection.execute(
                "SELECT study.value, experiments.name, opened.value, runs.start_time FROM runs "
                "JOIN experiments USING (experiment_id) "
                "JOIN tags AS kind ON kind.run_uuid = runs.run_uuid AND kind.key = ? "
                "JOIN tags AS study ON study.run_uuid = runs.run_uuid AND study.key = ? "
                "LEFT JOIN tags AS opened ON opened.run_uuid = runs.run_uuid AND opened.key = ? "
                "WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active' "
                "AND kind.value IN ('grid', 'speed')",
                (KIND_TAG, STUDY_TAG, OPENED_TAG),
            ).fetchall()
    except sqlite3.Error:
        return None
    latest = max(found, key=lambda row: opened_at(row[2], row[3] or 0), default=None)
    return None if latest is None else (str(latest[0]), str(latest[1]))


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
