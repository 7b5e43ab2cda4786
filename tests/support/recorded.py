"""A study as a grid leaves it, in store, journal and folders, without any training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.design.names import STUDY_TAG
from pipeline.design.records import End, Metrics
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from tests.support.stores import small_plan


def record_study(folder: Path, name: str, migrated_store: Callable[[Path], str], *, end: bool = True) -> Recorder:
    """Records two finished runs under a parent run; those that the study has are not recorded again.

    Args:
        folder: in which the state folder is made.
        name: of the study.
        migrated_store: the fixture.
        end: whether the controller ends; without it, it stays at work as this process.
    """
    state = folder / "mlruns"
    database = state / "mlflow.db"
    uri = f"sqlite:///{database}" if database.is_file() else migrated_store(database)
    store = MlflowStore(uri, name, state / "artifacts")
    store.connect()
    recorder = Recorder(store, state)
    recorder.start()
    recorder.parent.join(f"{name} 1", {"ablate.command": "grid", STUDY_TAG: name}, new=False)
    plan = small_plan(2)
    for run in plan.runs:
        work = state / "work" / run.spec.digest
        work.mkdir(parents=True, exist_ok=True)
        (work / "run.log").write_text("a log")
        opened = recorder.claim(run, plan, work)
        if opened is None:  # it is finished
            continue
        recorder.record(opened, Metrics(time=time.time(), values={"time/total_seconds": 3.0}))
        recorder.close(opened, End(time=time.time(), outcome="finished"))
    (state / "plans").mkdir(exist_ok=True)
    cells = [{"digest": run.spec.digest} for run in plan.runs]
    (state / "plans" / f"{recorder.parent.key}.json").write_text(json.dumps({"cells": cells}))
    reports = state / "reports" / name
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "report.html").write_text("x" * 5000)
    if end:
        recorder.close_parent("finished")
        assert recorder.drain(20.0)
    return recorder
