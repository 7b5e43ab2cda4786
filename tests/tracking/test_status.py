"""How far a study is, by the store's runs and the plan's file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.errors import InputError
from pipeline.tracking.liveness import owner
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.status import status_of
from tests.support.stores import MemoryStore, key_of

DEAD = f"{owner().partition('.')[0]}.999999999.1"
STATES = ("finished", "failed", "oom", "timeout", "interrupted", "running", "pending")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def add_grid(store: MemoryStore, key: str, start_time: int, command: str = "grid", **tags: str) -> str:
    given = {"ablate.kind": "grid", "ablate.command": command, **{f"ablate.{k}": v for k, v in tags.items()}}
    return store.create_run(key, given, name=key, start_time=start_time)


def add_try(store: MemoryStore, parent: str, digest: str, outcome: str = "", by: str = DEAD, kind: str = "run") -> None:
    tags = {"ablate.kind": kind, "ablate.digest": digest, "ablate.owner": by, "mlflow.parentRunId": parent}
    run_id = store.create_run(f"try {len(store.runs)}", tags, name="", start_time=9)
    if outcome:
        store.runs[run_id].tags["ablate.outcome"], store.runs[run_id].status = outcome, "FAILED"


def counts(store: MemoryStore, folder: Path) -> dict[str, Any]:
    document = status_of(cast(MlflowStore, store), folder)
    assert set(document) == {"study", "cells", *STATES, "failures", "speed"}
    assert document["cells"] == sum(document[state] for state in STATES)
    return {name: value for name, value in document.items() if value}


def test_cells_that_take_turns_are_counted_apart(store: MemoryStore, tmp_path: Path) -> None:
    add_try(store, add_grid(store, "g", 1, cells="2"), "a", "finished")
    for key, start_time, outcomes in (("old", 2, ("failed",)), ("young", 3, ("interrupted", "finished", ""))):
        tags = {"ablate.kind": "speed", "ablate.command": f"speed {key}", "ablate.cells": "3"}
        parent = store.create_run(key, tags, name=key, start_time=start_time)
        for number, outcome in enumerate(outcomes):
            add_try(store, parent, f"c{number // 2}", outcome, by=owner(), kind="turns")
    found = counts(store, tmp_path)
    assert found.pop("speed") == {
        "failures": [],
        "cells": 3,
        **dict.fromkeys(STATES, 0),
        "finished": 1,  # its first try was interrupted
        "running": 1,
        "pending": 1,
    }
    assert found == {"study": "study", "cells": 2, "finished": 1, "pending": 1}
    del store.runs[next(run for run, row in store.runs.items() if row.tags.get("ablate.kind") == "grid")]
    assert counts(store, tmp_path)["speed"]["cells"] == 3, "without a grid, too"


def test_a_study_without_a_grid_has_no_cells(store: MemoryStore, tmp_path: Path) -> None:
    store.create_run("t", {"ablate.kind": "tune"}, name="t", start_time=1)
    assert counts(store, tmp_path) == {"study": "study"}


def test_a_study_without_a_run_is_none(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="study 'study': no runs in the tracking store"):
        counts(store, tmp_path)


def test_what_failed_is_named_with_why(store: MemoryStore, tmp_path: Path) -> None:
    grid = add_grid(store, "g", 1, cells="20")
    for number in range(14):
        add_try(store, grid, f"c{number}", "oom" if number else "failed")
    add_try(store, grid, "c0", "failed")
    add_try(store, grid, "mended", "failed")
    add_try(store, grid, "mended", "finished")
    for number, row in enumerate(store.runs.values()):
        row.tags |= {"mlflow.runName": f"run {number}", "ablate.error": f"reason {number}"}
        row.start_time = number
    found = counts(store, tmp_path)["failures"]
    assert len(found) == 10 and found[0] == {"cell": "run 15", "outcome": "failed", "error": "reason 15"}, "its last"
    assert {failure["outcome"] for failure in found[1:]} == {"oom"}
    assert not any(failure["cell"] == "run 16" for failure in found), "it has finished since"


def test_a_cell_is_as_far_as_its_best_try(store: MemoryStore, tmp_path: Path) -> None:
    grid = add_grid(store, "g", 1, cells="7", study="named")
    beaten = (("a", "oom", "finished"), ("b", "failed", "oom"), ("c", "timeout", "failed"), ("d", "interrupted", ""))
    for digest, *outcomes in beaten:
        for outcome in outcomes:
            add_try(store, grid, digest, outcome)
    add_try(store, grid, "e", "failed")
    add_try(store, grid, "e", by=owner())
    found = counts(store, tmp_path)
    assert {failure["outcome"] for failure in found.pop("failures")} == {"oom", "failed"}
    assert found == {
        "study": "named",
        "cells": 7,
        "finished": 1,
        "oom": 1,
        "failed": 1,
        "interrupted": 1,
        "running": 1,
        "pending": 2,
    }


@pytest.mark.parametrize(("age", "state"), [(5, "running"), (600, "interrupted")])
def test_elsewhere_the_last_heartbeat_tells_who_runs(
    store: MemoryStore, tmp_path: Path, age: float, state: str
) -> None:
    beat = str(int((time.time() - age) * 1000))
    grid = add_grid(store, "g", 1, **{"heartbeat.elsewhere.1.1": beat})
    add_try(store, grid, "a", by="elsewhere.1.1")
    assert counts(store, tmp_path)[state] == 1


def test_the_youngest_grid_counts_and_no_single_run(store: MemoryStore, tmp_path: Path) -> None:
    for key, start_time, command in (("old", 1, "grid"), ("young", 2, "grid"), ("single", 3, "run")):
        add_try(store, add_grid(store, key, start_time, command, study=key), key, "finished")
    assert counts(store, tmp_path) == {"study": "young", "cells": 1, "finished": 1}


def test_the_plan_on_this_machine_says_what_belongs_to_it(store: MemoryStore, tmp_path: Path) -> None:
    grid = add_grid(store, key_of("g"), 1, cells="9")
    add_try(store, grid, "a", "finished")
    add_try(store, grid, "dropped", "finished")
    (tmp_path / "plans").mkdir()
    plan = tmp_path / "plans" / f"{key_of('g')}.json"
    plan.write_text(json.dumps({"cells": [{"digest": "a"}, {"digest": "b"}]}))
    assert counts(store, tmp_path) == {"study": "study", "cells": 2, "finished": 1, "pending": 1}
    plan.write_text("{")
    assert counts(store, tmp_path)["cells"] == 9
