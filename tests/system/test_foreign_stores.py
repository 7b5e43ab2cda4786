"""Stores that others filled, or that may only be read: one line or an answer, no traceback, nothing written."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_store import MlflowStore
from tests.support.ablate import ablate_in_process
from tests.support.stores import key_of

ODD = ["abc", "", "nan", "1e999", "-1", "9" * 400, "{", "[1]", "null", "\x1b[2J", "\u202e"]
NAMES = ["block", "position", "cells", "target_accuracy", "tainted", "techniques", "study", "claim", "owner", "outcome"]


@pytest.fixture
def store(tmp_path: Path, migrated_store: Callable[[Path], str]) -> MlflowStore:
    """A grid of two cells in two blocks."""
    found = MlflowStore(migrated_store(tmp_path / "mlruns" / "mlflow.db"), "planted", tmp_path / "mlruns" / "artifacts")
    found.connect()
    parent = found.create_run(
        key_of("p"), {"ablate.kind": "grid", "ablate.command": "grid", "ablate.cells": "4"}, name="p", start_time=1
    )
    for number in range(4):
        tags = {"ablate.kind": "run", "ablate.block": str(number // 2), "ablate.digest": f"{number}"}
        tags |= {"mlflow.parentRunId": parent, "ablate.outcome": "finished"}
        run_id = found.create_run(key_of(str(number)), tags, name="", start_time=2)
        params = {"model": "m", "dataset": "d", "techniques": "ga" if number % 2 else "baseline"}
        params |= {"ga": "on" if number % 2 else "off"}
        found.log(run_id, [("time/train_seconds", 10.0 + number, 5, 0), ("test/accuracy", 0.5, 5, 0)], params)
        found.end(run_id, "FINISHED", 9)
    found.end(parent, "FINISHED", 10)
    return found


@pytest.mark.parametrize("value", ODD)
def test_tags_that_we_did_not_write_are_one_line_or_ignored(store: MlflowStore, value: str, tmp_path: Path) -> None:
    for run_id in store.frame()["run_id"]:
        tags = {f"ablate.{name}": value for name in NAMES if name not in ("owner",)}
        store.log(run_id, tags={**tags, "ablate.heartbeat.x.1.1": value})
    for words in (("status", "planted"), ("compare", "planted", "planted")):
        done = ablate_in_process(*words, "--json", cwd=tmp_path)
        assert done.code in (0, 2) and len(done.lines) <= 1 and "Traceback" not in done.err, done.err


def test_a_report_sends_nothing_to_where_a_row_says(store: MlflowStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", ((tmp_path / "home").as_uri(),))
        connection.commit()
    done = ablate_in_process("report", "planted", "--log", "--out", "out", cwd=tmp_path)
    assert done.code == 0 and "home" in done.line and "MLFLOW_DEFAULT_ARTIFACT_ROOT" in done.line
    assert (tmp_path / "out" / "report.html").is_file() and not (tmp_path / "home").exists()
    assert store.problems == []


def test_tries_are_the_same_from_the_tables_and_the_client(store: MlflowStore, tmp_path: Path) -> None:
    reader = mlflow_sqlite.open_reader(tmp_path / "mlruns" / "mlflow.db", "planted")
    assert reader is not None
    assert {a.key: a for a in reader.attempts()} == {a.key: a for a in store.attempts()}


@pytest.mark.slow
def test_reading_needs_nothing_to_write_to(store: MlflowStore, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        (disk / "mlruns").mkdir()
        with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as connection:
            connection.execute("VACUUM INTO ?", (str(disk / "mlruns" / "mlflow.db"),))
        with closing(sqlite3.connect(disk / "mlruns" / "mlflow.db")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        out = str(tmp_path / "out")
        report = ("report", "planted", "--out", out)
        for words in (("status", "planted"), ("compare", "planted", "planted"), report, (*report, "--log")):
            done = ablate_in_process(*words, cwd=disk)
            assert done.code == 0 and len(done.lines) <= 1, done.err
            assert "--log" in words or done.err == ""
        assert "read-only" in done.err.lower() or "not logged" in done.err
        assert (tmp_path / "out" / "report.html").is_file()
    finally:
        subprocess.run(["umount", disk], check=True)
