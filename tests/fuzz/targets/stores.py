"""A real tracking store whose rows say something else: `status`, `report`, `compare`."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.analysis.comparison import compare_studies
from pipeline.analysis.effects import estimate
from pipeline.analysis.report.headlines import summary_lines
from pipeline.analysis.report.report import build_report
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.study_data import read_study_data
from tests.fuzz import templates
from tests.fuzz.checks import Guard, check_text, command, preload
from tests.fuzz.choices import NUMBERS, Choices

WORDS = """
    finished run grid nan -1 ablate.cells ablate.block
"""
STUDY = "quickstart"
TABLES = {
    "runs": (
        "name",
        "status",
        "start_time",
        "end_time",
        "lifecycle_stage",
        "artifact_uri",
        "run_uuid",
        "experiment_id",
    ),
    "tags": ("key", "value", "run_uuid"),
    "params": ("key", "value", "run_uuid"),
    "latest_metrics": ("key", "value", "is_nan", "step", "timestamp", "run_uuid"),
    "metrics": ("key", "value", "is_nan", "step", "timestamp", "run_uuid"),
    "experiments": ("name", "artifact_location", "lifecycle_stage"),
}
COMMANDS = (("report", STUDY, "--json"), ("status", STUDY), ("status", STUDY, "--json"), ("compare", STUDY, STUDY))


def seeds(_cache: Path) -> list[bytes]:
    """Decisions."""
    return [bytes([first, *range(start, start + 24)]) for first in range(8) for start in (0, 40, 90)]


class Target:
    """Changes some rows of a copy, and reads it.

    Args:
        folder: to work in.
        cache: what targets share.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        preload(
            "mlflow.store.tracking.sqlalchemy_store",
            ".tracking.mlflow_store",
            ".analysis.report.files",
            ".analysis.comparison",
        )
        self._folder = folder
        self._template = templates.grid(cache) / "mlruns" / "mlflow.db"
        with closing(sqlite3.connect(self._template)) as store:  # one file, without its log
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._counts = {table: store.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
        self._guard = Guard(folder)
        self._number = 0

    def __call__(self, data: bytes) -> None:
        """Tries one store."""
        choices = Choices(data)
        self._number += 1
        work = self._folder / f"work-{self._number}"  # MLflow keeps connections by the name of the file
        (work / "mlruns").mkdir(parents=True)
        (work / "data").mkdir()
        database = work / "mlruns" / "mlflow.db"
        shutil.copyfile(self._template, database)
        way = choices.below(64)  # one in 64 draws a whole report, which takes a second
        try:
            self._move(database, work)
            self._change(database, choices)
            with self._guard.watching():
                if way < len(COMMANDS):
                    command(*COMMANDS[way], cwd=work)
                else:
                    self._analyse(database)
        finally:
            shutil.rmtree(work)

    def _move(self, database: Path, work: Path) -> None:
        """Has the artifacts in this folder, as if the grid had been run here."""
        with closing(sqlite3.connect(database)) as store:
            for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
                (known,) = store.execute(f"SELECT {column} FROM {table} ORDER BY length({column})").fetchone()
                root = known.partition("/mlruns/")[0]
                store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (root, f"file://{work}"))
            store.commit()

    def _change(self, database: Path, choices: Choices) -> None:
        with closing(sqlite3.connect(database)) as store:
            for _ in range(1 + choices.below(4)):
                table = choices.pick(list(TABLES))
                column = choices.pick(TABLES[table])
                row, kind = choices.below(self._counts[table]), choices.below(8)
                where = f"rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {row})"
                try:
                    if kind == 0:
                        store.execute(f"DELETE FROM {table} WHERE {where}")
                    else:
                        number = column in ("start_time", "end_time", "step", "timestamp") or (
                            column == "value" and table.endswith("metrics")
                        )
                        value = choices.pick(NUMBERS) if number and kind < 6 else choices.value()
                        every = "1" if kind == 7 else where
                        store.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {every}", (value,))
                except (sqlite3.Error, UnicodeError, OverflowError):  # the database refuses it itself
                    continue
            store.commit()

    def _analyse(self, database: Path) -> None:
        """What `report` and `compare` do in this process or in another, without drawing."""
        reader = mlflow_sqlite.open_reader(database, STUDY)
        if reader is None:
            return
        study, parent = read_study_data(reader, STUDY, curves=True)
        if parent:
            reader.artifact_uri(parent)
        effects = estimate(study, margin=0.01, accuracy_margin_points=0.5, target_accuracy=study.target_accuracy)
        for line in summary_lines(build_report(study, effects, memory_limit_mib=None, audit=None)):
            check_text(line)
        compared = compare_studies(study, study)
        compared.to_json()
        check_text(compared.to_markdown())
