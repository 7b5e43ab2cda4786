"""The parent run: one for a study, shared by its controllers, closed by the last of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.design.names import CLAIM_TAG, HEARTBEAT_TAG, KEY_TAG, OUTCOME_TAG
from pipeline.tracking import parent_run
from pipeline.tracking.attempts import attempt_of
from pipeline.tracking.entries import open_parent_entry
from pipeline.tracking.known_attempts import KnownAttempts
from pipeline.tracking.liveness import ENDED
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.parent_run import ParentRun, has_finished, has_room_for
from tests.support.stores import MemoryStore, key_of, small_plan

GRID = {"ablate.command": "grid"}
ALIVE, DEAD = "another-host.1.1", "third-host.2.2"


class Controller:
    """A controller's share of a parent run, by a name of its own."""

    def __init__(self, store: MemoryStore, folder: Path, name: str) -> None:
        given = cast(MlflowStore, store)
        self.outbox = Outbox(folder / f"{name}.journal", MlflowWriter(given, folder), lambda: None)
        head = {"kind": "journal", "uri": store.uri, "experiment": store.experiment, "owner": name}
        self.outbox.append(head)
        self.outbox.start()
        self.known = KnownAttempts(given, folder, lambda: False)
        self.parent = ParentRun(given, self.outbox, self.known, name, folder / "lock")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def controller(store: MemoryStore, ram_path: Path) -> Iterator[Callable[..., Controller]]:
    made: list[Controller] = []

    def make(name: str = "this-host.1.1", folder: str = "here") -> Controller:
        made.append(Controller(store, ram_path / folder, name))
        return made[-1]

    yield make
    for one in made:
        one.outbox.drain(0.0)


def stored_parent(store: MemoryStore, key: str, time: int, *beats: str, command: str = "grid", **tags: str) -> str:
    given = {
        "ablate.kind": "grid",
        "ablate.command": command,
        **{HEARTBEAT_TAG + name: "17" for name in beats},
        **{name.replace("_", "."): value for name, value in tags.items()},
    }
    return store.create_run(key, given, name=key, start_time=time)


def test_the_first_one_opens_a_parent_and_holds_it(store: MemoryStore, controller: Callable[..., Controller]) -> None:
    one = controller()
    assert one.parent.join("study", GRID, new=False) == []
    assert one.outbox.wait(5)
    run = store.run(one.parent.key)
    assert (run.name, run.status, run.tags[CLAIM_TAG]) == ("study", "RUNNING", "held")
    assert run.tags["env.tracking_uri"] == store.uri and int(run.tags[f"{HEARTBEAT_TAG}this-host.1.1"]) > 1e12


def test_the_youngest_parent_of_the_command_is_joined_and_goes_on(
    store: MemoryStore, controller: Callable[..., Controller]
) -> None:
    stored_parent(store, "old", 1)
    run_id = stored_parent(store, key_of("young"), 2)
    stored_parent(store, "tuning", 3, command="tune")
    stored_parent(store, "unsettled", 4, ablate_claim="pending")
    store.end(run_id, "FINISHED", 5)
    one = controller()
    before = one.parent.join("study", GRID, new=False)
    assert {attempt.key for attempt in before} == {"old", key_of("young"), "tuning", "unsettled"}
    assert one.outbox.wait(5)
    assert (one.parent.key, store.run(one.parent.key).status, len(store.runs)) == (key_of("young"), "RUNNING", 4)


def test_a_new_one_is_opened_where_it_is_asked_for(store: MemoryStore, controller: Callable[..., Controller]) -> None:
    stored_parent(store, "old", 1)
    one = controller()
    one.parent.join("study", GRID, new=True)
    assert one.outbox.wait(5)
    assert one.parent.key != "old" and len(store.runs) == 2


@pytest.mark.parametrize("folders", [("here", "here"), ("here", "there")])
def test_controllers_that_start_together_agree_on_one(
    store: MemoryStore, controller: Callable[..., Controller], folders: tuple[str, str]
) -> None:
    pair = [controller(f"host-{n}.1.1", folder) for n, folder in enumerate(folders)]
    threads = [threading.Thread(target=one.parent.join, args=("study", GRID), kwargs={"new": False}) for one in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(one.outbox.wait(5) for one in pair)
    assert pair[0].parent.key == pair[1].parent.key
    assert [run.tags[KEY_TAG] for run in store.runs.values()] == [pair[0].parent.key]


def test_rows_of_the_dead_are_closed_when_one_joins(
    store: MemoryStore, controller: Callable[..., Controller], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_parent(store, key_of("parent"), 1, ALIVE, DEAD)
    for key, name in (("left", DEAD), ("going", ALIVE)):
        store.create_run(key, {"ablate.kind": "run", "ablate.owner": name}, name=key, start_time=2)
    one = controller()
    monkeypatch.setattr(one.known._liveness, "is_alive", lambda name: name != DEAD)
    one.parent.join("study", GRID, new=False)
    assert one.outbox.wait(5)
    assert [store.run(key).status for key in (key_of("parent"), "left", "going")] == ["RUNNING", "KILLED", "RUNNING"]
    assert store.run("left").tags[OUTCOME_TAG] == "interrupted"


@pytest.mark.parametrize(("beats", "status"), [((ALIVE,), "RUNNING"), ((DEAD,), "FINISHED"), ((), "FINISHED")])
def test_the_last_one_closes_it(
    store: MemoryStore,
    controller: Callable[..., Controller],
    monkeypatch: pytest.MonkeyPatch,
    beats: tuple[str, ...],
    status: str,
) -> None:
    stored_parent(store, key_of("parent"), 1, *beats)
    one = controller()
    monkeypatch.setattr(one.known._liveness, "is_alive", lambda name: name != DEAD)
    one.parent.join("study", GRID, new=False)
    one.parent.close("finished")
    assert one.outbox.wait(5)
    assert store.run(key_of("parent")).status == status
    assert store.run(key_of("parent")).tags[f"{HEARTBEAT_TAG}this-host.1.1"] == ENDED


def test_it_is_closed_while_the_store_is_away(
    store: MemoryStore, controller: Callable[..., Controller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent_run, "LEAVE_PATIENCE", 0.1)
    one = controller()
    one.parent.join("study", GRID, new=False)
    store.away = True
    one.parent.close("interrupted")
    store.away = False
    assert one.outbox.wait(12)
    assert store.run(one.parent.key).status == "KILLED"


def test_no_heartbeat_before_it_is_joined_and_after_it_is_left(
    store: MemoryStore, controller: Callable[..., Controller]
) -> None:
    beats: list[Any] = []
    store.beat = lambda *given: beats.append(given)  # type: ignore[method-assign]
    one = controller()
    one.parent.beat()
    assert beats == []
    one.parent.join("study", GRID, new=False)
    one.parent.beat()
    assert [given[:2] for given in beats] == [(one.parent.key, f"{HEARTBEAT_TAG}this-host.1.1")]
    one.parent.close("finished")
    one.parent.beat()
    assert len(beats) == 1


def test_what_it_is_given_is_logged(store: MemoryStore, controller: Callable[..., Controller]) -> None:
    one = controller()
    one.parent.join("study", GRID, new=False)
    plan = one.outbox.path.parent / "plans" / "plan.json"
    plan.parent.mkdir()
    plan.write_text("{}")
    one.parent.log_values({"cells/total": 4.0}, {"mlflow.note.content": "text"})
    one.parent.log_artifact(plan, "plan")
    assert one.outbox.wait(5)
    run = store.run(one.parent.key)
    assert [(name, value, step) for name, value, _, step in run.metrics] == [("cells/total", 4.0, 0)]
    assert run.tags["mlflow.note.content"] == "text" and run.artifacts == ["plan/plan.json"]


def test_an_attempt_is_known_by_its_parents_key_or_id(
    store: MemoryStore, controller: Callable[..., Controller]
) -> None:
    one = controller()
    one.parent.join("study", GRID, new=False)
    assert one.outbox.wait(5)
    for parent, inside in ((one.parent.key, True), (store.known(one.parent.key), True), ("another", False)):
        tags = {"ablate.kind": "run", "mlflow.parentRunId": parent}
        store.create_run(f"of {parent}", tags, name="run", start_time=1)
        (attempt,) = (a for a in store.attempts() if a.key == f"of {parent}")
        assert one.parent.contains(attempt) is inside


def test_an_opened_parent_may_be_of_another_kind() -> None:
    entry = open_parent_entry("key", "tune", {"ablate.kind": "tune"}, "host.1.1", "sqlite:///x")
    assert (entry["tags"]["ablate.kind"], entry["parent"]) == ("tune", None)


def test_what_may_lie_under_one_parent() -> None:
    plan = small_plan(8)
    # the row of an earlier version, which says no factors
    row = {"ablate.techniques": "ga,amp,pm", "ablate.study": "quickstart"}
    parent = attempt_of(key_of("p"), row, start_time=1, parent="")
    tags = [{"ablate.digest": run.spec.digest, "mlflow.runName": run.name} for run in plan.runs]
    mine = [attempt_of(key_of(each["mlflow.runName"]), each, start_time=2, parent="p") for each in tags]
    fits = has_room_for(plan)
    assert fits(parent, []) and fits(parent, mine) and fits(parent, mine[:3])
    assert fits(parent, [*mine, replace(mine[0], digest="measured again")]), "beside the cell itself"
    assert not fits(parent, [replace(mine[0], digest="of another recipe"), *mine[1:]])
    assert fits(parent, [replace(mine[0], name="another cell", digest="x")]), "another part of the study"
    assert not fits(replace(parent, study="other"), []) and fits(replace(parent, study=""), [])
    assert not fits(replace(parent, factors="ga,amp"), mine)


def test_a_parent_has_a_cell_that_has_finished_under_it() -> None:
    plan = small_plan(1)
    parent = attempt_of(key_of("p"), {}, start_time=1, parent="")
    row = {"ablate.digest": plan.runs[0].spec.digest}
    tried = attempt_of(key_of("t"), row, start_time=2, parent="p", outcome="failed")
    fits = has_finished(plan)
    assert not fits(parent, []) and not fits(parent, [tried])
    assert fits(parent, [tried, replace(tried, outcome="finished")])
