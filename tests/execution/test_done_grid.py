"""A call with nothing to do starts nothing and writes nothing; whatever is in doubt goes the whole way."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.options import GridOptions
from pipeline.design.selection import select_plan
from pipeline.execution import session
from pipeline.execution.done_grid import DoneGrid, find_done_grid
from pipeline.execution.session import Session
from pipeline.tracking.delivery import delivered_path
from tests.support.launchers import FakeLauncher, ListenerLog

OPTIONS = GridOptions(models="test_resnet", datasets="digits", techniques="pm", study="quickstart", device="cpu")


class Calls:
    """Calls of one grid in one folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.database = folder / "mlruns" / "mlflow.db"
        self._monkeypatch = monkeypatch

    def __call__(self, **changed: Any) -> tuple[Session, FakeLauncher, ListenerLog]:
        options = replace(OPTIONS, tracking_uri=f"sqlite:///{self.database}", **changed)
        launcher, listener = FakeLauncher(self.folder), ListenerLog()
        self._monkeypatch.setattr(session, "make_launcher", lambda *_, **__: launcher)
        made = Session(options, select_plan(options, "cpu"), listener, self.folder / "mlruns")
        outcome = made.run()
        assert outcome.complete and outcome.delivered
        return made, launcher, listener

    def sql(self, text: str, *values: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            assert connection.execute(text, values).rowcount > 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, migrated_store: Callable[[Path], str]) -> Path:
    folder = tmp_path_factory.mktemp("done")
    migrated_store(folder / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        made, launcher, _ = Calls(folder, patch)()
    assert made.done is None and len(launcher.launched) == 2
    return folder


@pytest.fixture
def calls(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """The folder of the finished grid, which is put back afterwards: journals have the address of their store."""
    shutil.copytree(finished, tmp_path / "as-it-was")
    yield Calls(finished, monkeypatch)
    shutil.rmtree(finished)
    shutil.copytree(tmp_path / "as-it-was", finished)


def _files(folder: Path) -> dict[str, bytes]:
    """All files with their content; SQLite's own beside a database come and go."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path): path.read_bytes() for path in files}


def test_nothing_to_do_starts_nothing_and_writes_nothing(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _files(calls.folder)
    monkeypatch.setattr("pipeline.tracking.mlflow_connection.MlflowConnection._open", None)
    made, launcher, listener = calls()
    assert launcher.calls == [] and launcher.launched == [] and made.grid is None
    assert listener.begun == [(2, 2)]
    assert _files(calls.folder) == before
    assert len(made.parent_key) == 32 and made.error is None
    rows = {result.label: result for result in made.results()}
    assert set(rows) == {"baseline", "pm"} and {row.outcome for row in rows.values()} == {"finished"}
    assert rows["pm"].values["time/train_seconds"] == 1.0 + made.plan.runs[0].spec.seed


def test_results_are_those_of_the_whole_way(calls: Calls) -> None:
    short, _, _ = calls()
    delivered_path(next(calls.folder.glob("mlruns/journal/*.journal"))).unlink()
    whole, launcher, _ = calls()
    assert (short.done is None, whole.done is None) == (False, True) and launcher.calls == ["start", "preflight"]
    assert short.results() == whole.results() and short.parent_key == whole.parent_key


TAG = "INSERT OR REPLACE INTO tags (run_uuid, key, value) SELECT run_uuid, ?, ? FROM tags WHERE key = 'ablate.command'"
RUN = "UPDATE runs SET status = 'RUNNING' WHERE run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (TAG, ("mlflow.ablate.heartbeat.elsewhere-12345678.77.1", "1")),  # another host may be at work
        (TAG, ("ablate.heartbeat.elsewhere-12345678.77.1", "1")),  # with an earlier version
        (TAG, ("ablate.techniques", "ga")),  # the call would write it anew
        (RUN, ("ablate.kind", "run")),  # somebody runs a cell, or died over it
        (RUN, ("ablate.kind", "grid")),
        ("UPDATE experiment_tags SET value = ? WHERE key = ?", ("1", "ablate.delivered")),  # an older state of it
        ("UPDATE experiment_tags SET value = ? WHERE key = ?", ("x", "ablate.delivered")),
        ("UPDATE alembic_version SET version_num = ?", ("ffffffffffff",)),  # tables that nobody here knows
    ],
)
def test_what_is_in_doubt_is_left_to_the_whole_way(calls: Calls, text: str, values: tuple[str, ...]) -> None:
    calls.sql(text, *values)
    assert _found(calls) is None


def test_what_is_not_delivered_or_written_is_left_to_the_whole_way(calls: Calls) -> None:
    assert _found(calls) is not None
    (journal,) = calls.folder.glob("mlruns/journal/*.journal")
    kept = journal.read_bytes()
    delivered = delivered_path(journal).read_bytes()
    delivered_path(journal).unlink()
    assert _found(calls) is None
    delivered_path(journal).write_bytes(delivered)
    journal.write_bytes(kept)
    (plan,) = calls.folder.glob("mlruns/plans/*")
    plan.write_text('{"cells": []}')
    assert _found(calls) is None
    plan.unlink()
    assert _found(calls) is None


@pytest.mark.parametrize("changed", [{"fresh": True}, {"rerun_tainted": True}, {"seeds": 2}, {"techniques": "ga"}])
def test_a_call_that_wants_more_gets_it(calls: Calls, changed: dict[str, Any]) -> None:
    made, launcher, _ = calls(**changed)
    assert made.done is None and "preflight" in launcher.calls


def _found(calls: Calls) -> DoneGrid | None:
    options = replace(OPTIONS, tracking_uri=f"sqlite:///{calls.database}")
    plan = select_plan(options, "cpu").plan
    tags = {"ablate.study": "quickstart", "ablate.techniques": "pm", "ablate.command": "grid", "ablate.cells": "2"}
    return find_done_grid(plan, str(options.tracking_uri), "quickstart", calls.folder / "mlruns", tags, 1)
