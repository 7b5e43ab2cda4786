"""Passwords are given in many places, and come back in none: output, journals, stores, reports, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.design.records import End
from pipeline.errors import AblateError
from pipeline.execution.ray import cluster
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from tests.support.ablate import Result, ablate_in_process
from tests.support.stores import MemoryStore, small_plan

SECRET = "hunter2"
PASSWORDS = (SECRET, f"a/{SECRET}", f"a#{SECRET}", f"a?{SECRET}", f"a@{SECRET}", f"a@/{SECRET}#?x")
UNREACHABLE = [
    *(f"http://user:{password}@127.0.0.1:1/x?token={SECRET}" for password in PASSWORDS),
    f"http://user:{SECRET}@[::1/x",
    f"ftp://user:{SECRET}@host",
    f"postgresql://user:a/{SECRET}@127.0.0.1:1/db?password={SECRET}",
    f"sqlite:///?password={SECRET}",
]


def assert_untold(result: Result, folder: Path) -> None:
    assert result.code in (2, 3) and len(result.lines) == 1, result.err
    assert SECRET not in result.out + result.err
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("uri", UNREACHABLE)
def test_not_by_a_command_whose_store_cannot_be_reached(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", f"me{SECRET}")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert_untold(ablate_in_process("status", "quickstart", "--tracking-uri", uri, cwd=tmp_path), tmp_path)
    env = {"MLFLOW_TRACKING_URI": uri}
    assert_untold(ablate_in_process("compare", "a", "b", cwd=tmp_path, env=env), tmp_path)


@pytest.mark.parametrize(
    "uri", [f"postgresql://user:{password}@db:5432/mlflow?password={SECRET}" for password in PASSWORDS]
)
def test_not_in_journal_and_tags(uri: str, tmp_path: Path) -> None:
    store = MemoryStore(uri)
    one = Recorder(cast(MlflowStore, store), tmp_path)
    one.start()
    one.parent.join("grid", {"ablate.command": "grid"}, new=True)
    plan = small_plan(1)
    opened = one.open(plan.runs[0], plan, tmp_path / "work")
    one.close(opened, End(time=1.0, outcome="failed", error=f"cannot reach {uri}: refused"))
    one.close_parent("failed")
    assert one.drain(10)
    told: Any = [run.tags for run in store.runs.values()]
    assert SECRET not in str(told) and "postgresql://db:5432/mlflow" in str(told)
    assert SECRET not in one.outbox.path.read_text()


@pytest.mark.parametrize("address", [f"user:{SECRET}@127.0.0.1:1", f"redis://:{SECRET}@h:1", f"{SECRET}@h", "auto"])
def test_not_of_a_clusters_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("RAY_ADDRESS", f"user:{SECRET}@127.0.0.1:1")
    with pytest.raises(AblateError) as refused:
        cluster._check(address)
    assert SECRET not in str(refused.value)
