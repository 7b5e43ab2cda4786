"""Optuna storages whose rows say something else: tuned recipes taken over, trials read back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.tracking.provenance import host_provenance
from pipeline.tuning.storage import existing
from tests.fuzz import templates
from tests.fuzz.checks import Guard, command, preload
from tests.fuzz.choices import Choices
from tests.support.tuning import make_ledger, make_space

WORDS = """
    recommended batch_size verdict tune.identity NaN {} [] null
"""
TABLES = {
    "study_user_attributes": ("key", "value_json"),
    "trial_user_attributes": ("key", "value_json"),
    "trial_system_attributes": ("key", "value_json"),
    "trial_params": ("param_name", "param_value", "distribution_json"),
    "trial_values": ("value", "value_type"),
    "trials": ("number", "state", "datetime_start"),
    "studies": ("study_name",),
    "study_directions": ("direction", "objective"),
}
DOCUMENTS = (
    '{"recommended": {"batch_size": 0}, "verdict": "better"}',
    '{"recommended": {"weights": "/etc/passwd"}, "verdict": 1}',
    '{"recommended": []}',
    '{"verdict": "x"}',
    '{"recommended": {"x": 1}, "verdict": "\\u001b[2J"}',
    "[1]",
    "1",
    '"x"',
    "null",
    "{",
    '{"recommended": {"batch_size": 1e400}, "verdict": ""}',
    '{"recommended": null, "verdict": null}',
    "NaN",
    '""',
    '"\\ud800"',
)


def seeds(_cache: Path) -> list[bytes]:
    """Decisions."""
    return [bytes([first, *range(start, start + 16)]) for first in range(4) for start in (0, 40, 90)]


class Target:
    """Changes some rows of a copy, and reads it.

    Args:
        folder: to work in.
        cache: what targets share.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        preload(".tuning.storage", ".commands.tune")
        host_provenance()  # asks git once
        self._folder = folder
        template = templates.tuning(cache)
        self._template, self._name = template / "optuna.db", (template / "name").read_text()
        with closing(sqlite3.connect(self._template)) as store:
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._counts = {table: store.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
        self._space = make_space()
        self._guard = Guard(folder)
        self._number = 0

    def __call__(self, data: bytes) -> None:
        """Tries one storage."""
        choices = Choices(data)
        self._number += 1
        work = self._folder / f"work-{self._number}"
        (work / "data").mkdir(parents=True)
        database = work / "optuna.db"
        shutil.copyfile(self._template, database)
        whole = choices.below(2)
        try:
            self._change(database, choices)
            url = f"sqlite:///{database}"
            with self._guard.watching():
                if whole:
                    names = (
                        "--study",
                        "quickstart",
                        "--models",
                        "test_resnet",
                        "--datasets",
                        "digits",
                        "--device",
                        "cpu",
                    )
                    command("grid", "--dry-run", "--tuned", *names, "--storage", url, cwd=work)
                else:
                    study = existing(url, self._name)
                    if study is not None:
                        make_ledger(self._space, work, 8, study=study).findings()
        finally:
            shutil.rmtree(work)

    def _change(self, database: Path, choices: Choices) -> None:
        with closing(sqlite3.connect(database)) as store:
            for _ in range(1 + choices.below(3)):
                table = choices.pick(list(TABLES))
                column, row, kind = choices.pick(TABLES[table]), choices.below(self._counts[table]), choices.below(6)
                where = f"rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {row})"
                value = choices.pick(DOCUMENTS) if column.endswith("json") and kind < 4 else choices.value()
                try:
                    if kind == 5:
                        store.execute(f"DELETE FROM {table} WHERE {where}")
                    else:
                        store.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {where}", (value,))
                except (sqlite3.Error, UnicodeError, OverflowError):  # the database refuses it itself
                    continue
            store.commit()
