"""Cells of an actor, as their rounds see them: turns, losses, the end of the call. Ray itself is in `test_launcher`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.records import End, Metrics, Ready, Record, Tags, Turn, TurnOrder
from pipeline.errors import OutsideError
from pipeline.execution.ray import membership, standing
from pipeline.execution.ray.node import File, Request
from pipeline.execution.ray.placement import Slot
from pipeline.execution.ray.standing import RayStandingWorker, RayStands
from tests.support.fake_ray import FakeRay, RayError
from tests.support.training import small_spec

SLOT = Slot("abcdef0123456789", "host-1")
TAGS = Tags(time=1.0, values={"env.ray_node": "n"})
READY = Ready(time=1.0, epoch_images=64, ahead_images=0, edge_seconds=0.0)
TURN = Turn(time=1.0, number=1, seconds=1.0, images=64, updates=1)
END = End(time=2.0, outcome="finished")


class Method:
    """A method of an actor, called through Ray."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call

    def options(self, **given: Any) -> Method:
        assert given == {"num_returns": "streaming"}
        return self


class FakeActor:
    """Answers as the test says; what it was told to do is kept."""

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Method:
        def call(*given: Any) -> Any:
            self.calls.append((name, *given))
            answers = self.answers.get(name, [])
            return answers.pop(0) if answers else None

        return Method(call)


def items(*records: Any) -> tuple[Any, ...]:
    return tuple(each if isinstance(each, (File, Exception)) else each.model_dump_json() for each in records)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    monkeypatch.setattr(membership.cluster, "on_node", lambda node: node)
    return FakeRay()


def stands(ray: FakeRay, actor: FakeActor, monkeypatch: pytest.MonkeyPatch, cancelled: bool = False) -> RayStands:
    class Made:
        def options(self, **options: Any) -> Made:
            ray.options.append(options)
            return self

        def remote(self, *_given: Any) -> FakeActor:
            return actor

    monkeypatch.setattr(standing, "remote_class", lambda _ray: Made())
    return RayStands(ray, Request("cpu", None, None, 0), lambda: cancelled)


def worker_of(
    ray: FakeRay, folder: Path, streams: list[Any], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[RayStandingWorker, FakeActor]:
    answers = {"provenance": [TAGS.model_dump_json()], "stand": [(7, "")], "until": streams}
    actor = FakeActor(answers)
    group = stands(ray, actor, monkeypatch, **options)
    with group.open(SLOT, small_spec(num_threads=2)) as stand:
        return group.stand(stand, small_spec(), folder), actor


def told(worker: RayStandingWorker, kind: type[Record]) -> list[Record]:
    return list(worker.until(kind, 5.0))


def test_a_cell_tells_where_it_is_and_takes_its_turns(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Metrics(time=1.0, values={"a": 1.0})
    streams = [items(READY), items(TURN), items(measured, File("log.txt", b"said"), END)]
    worker, actor = worker_of(ray, tmp_path / "cell", streams, monkeypatch)
    assert told(worker, Ready) == [TAGS, READY]
    worker.order(TurnOrder(number=1, images=64, head=0))
    assert told(worker, Turn) == [TURN]
    worker.dismiss()
    assert told(worker, End) == [measured, END]
    assert (tmp_path / "cell" / "log.txt").read_bytes() == b"said"
    order = TurnOrder(number=1, images=64, head=0).model_dump_json()
    waits = [("until", 7, kind, 5.0) for kind in ("Ready", "Turn", "End")]
    assert [call for call in actor.calls if call[0] in ("until", "order", "dismiss")] == [
        waits[0],
        ("order", 7, order),
        waits[1],
        ("dismiss", 7),
        waits[2],
    ]
    worker.kill()
    assert actor.calls[-1] == ("kill", 7)


def test_a_group_has_its_node_and_leaves_nothing(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = FakeActor({"free_mib": [(100.0, float("inf"))]})
    group = stands(ray, actor, monkeypatch)
    with group.open(SLOT, small_spec(num_threads=2)) as stand:
        assert ray.options == [{"num_cpus": 2, "scheduling_strategy": SLOT.node}]
        assert group.free_mib(stand) == (100.0, float("inf"))
        group.kill()
        assert ray.killed == [actor]
    assert ("close",) in actor.calls and ray.killed == [actor] * 2
    group.kill()
    assert len(ray.killed) == 2, "it is not there any more"


def test_a_group_on_gpus_asks_for_one(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    group = stands(ray, FakeActor({}), monkeypatch)
    group._request = Request("cuda", None, None, 0)
    with group.open(SLOT, small_spec()):
        assert ray.options == [{"num_gpus": 1, "num_cpus": 0, "scheduling_strategy": SLOT.node}]


def test_a_call_that_ends_does_not_wait_for_the_node(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = FakeActor({})
    with stands(ray, actor, monkeypatch, cancelled=True).open(SLOT, small_spec()):
        pass
    assert actor.calls == [] and ray.killed == [actor]


@pytest.mark.parametrize(
    ("stream", "why"), [((RayError("gone"),), "RayError"), ((), "its stream ended")], ids=["lost", "short"]
)
def test_a_lost_node_interrupts_its_cells(
    stream: tuple[Any, ...], why: str, ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = worker_of(ray, tmp_path, [items(READY), stream], monkeypatch)
    told(worker, Ready)
    for _ in range(2):  # and it stays lost
        (end,) = told(worker, Turn)
        assert isinstance(end, End) and end.outcome == "interrupted"
        assert end.error == f"node host-1 (abcdef01) or its Ray worker was lost: {why}"


def test_an_end_of_the_call_is_no_loss(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = worker_of(ray, tmp_path, [(RayError("killed"),)], monkeypatch, cancelled=True)
    end = told(worker, Ready)[-1]
    assert isinstance(end, End) and (end.outcome, end.error) == ("interrupted", "cancelled")


def test_a_node_that_is_lost_before_the_start_tells_so(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = FakeActor({"provenance": [RayError("gone")], "free_mib": [RayError("gone")]})
    group = stands(ray, actor, monkeypatch)
    with group.open(SLOT, small_spec()) as stand:
        assert group.free_mib(stand) == (float("inf"), float("inf")), "its cells tell what became of it"
        (end,) = told(group.stand(stand, small_spec(), tmp_path), Ready)
    assert isinstance(end, End) and end.outcome == "interrupted" and "host-1" in str(end.error)


def test_what_cannot_be_started_is_told(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = FakeActor({"provenance": [TAGS.model_dump_json()], "stand": [(0, "No space left on device")]})
    group = stands(ray, actor, monkeypatch)
    with group.open(SLOT, small_spec()) as stand, pytest.raises(OutsideError, match="node host-1: No space left"):
        group.stand(stand, small_spec(), tmp_path)
