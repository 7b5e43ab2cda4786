"""The node's side of cells that take turns: processes of their own, whose records and files travel."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.design.records import End, Ready, Record, Tags, Turn, TurnOrder
from pipeline.design.spec import RunSpec, TurnPlan
from pipeline.execution.ray import node
from pipeline.execution.ray.node import File, Request
from pipeline.execution.ray.standing_node import StandingNode
from tests.support.training import small_spec


def cell(**recipe: object) -> RunSpec:
    return small_spec(max_train_samples=200, **recipe).model_copy(update={"turns": TurnPlan(multiple=64)})


@pytest.fixture
def standing(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandingNode]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    found = StandingNode(Request("cpu", str(digits_dir), None, 0), "node-1")
    yield found
    found.close()
    node.launcher_of.cache_clear()
    os.environ.clear()
    os.environ.update(before)


def told(standing: StandingNode, number: int, kind: str, seconds: float | None = 60) -> list[Record | File]:
    return [node.parse(item) for item in standing.until(number, kind, seconds)]


def test_cells_take_turns_and_end_with_their_files(standing: StandingNode, tmp_path: Path) -> None:
    tags = node.parse(standing.provenance())
    assert isinstance(tags, Tags) and tags.values["env.ray_node"] == "node-1" and "ablate.moved" not in tags.values
    cells = [cell(), cell(accumulation_steps=2)]
    numbers = []
    for spec in cells:
        number, problem = standing.stand(spec.model_dump_json())
        assert problem == "" and isinstance(told(standing, number, "Ready")[-1], Ready)
        numbers.append(number)
    assert numbers == [0, 1] and standing.free_mib()[0] > 10
    for turn in (3, 4):
        for number in numbers:
            standing.order(number, TurnOrder(number=turn, images=128, head=64).model_dump_json())
            last = told(standing, number, "Turn")[-1]
            assert isinstance(last, Turn) and (last.number, last.images) == (turn, 128)
    standing.dismiss(0)
    items = told(standing, 0, "End")
    assert isinstance(items[-1], End) and items[-1].outcome == "finished"
    assert "log.txt" in [item.path for item in items if isinstance(item, File)]
    assert len(_workers()) == 1
    standing.close()
    assert not _workers() and not list(tmp_path.glob("ablate-ray-*/*/log.txt")), "nothing stays"


def test_what_is_known_against_the_node_is_in_all_its_cells(
    standing: StandingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are looked for once: by the second time the first cell of ours uses the machine."""
    looks = [["other processes used 1.5 CPUs"], []]
    monkeypatch.setattr(node, "cpu_interference", lambda: looks.pop(0))
    tags = [node.parse(standing.provenance()) for _ in range(2)]
    doubts = [each.values["ablate.tainted"] for each in tags if isinstance(each, Tags)]
    assert doubts == ["other processes used 1.5 CPUs"] * 2 and len(looks) == 1


def test_a_cell_that_does_not_answer_is_stopped(standing: StandingNode) -> None:
    number, _ = standing.stand(cell().model_dump_json())
    told(standing, number, "Ready")
    end = told(standing, number, "Turn", seconds=0.5)[-1]
    assert isinstance(end, End) and end.outcome == "timeout"


def test_a_killed_cell_is_gone_at_once(standing: StandingNode) -> None:
    number, _ = standing.stand(cell().model_dump_json())
    told(standing, number, "Ready")
    standing.kill(number)
    assert not _workers()


def test_what_cannot_be_started_is_told(standing: StandingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(standing._launcher, "stand", full)
    assert "No space left" in standing.stand(cell().model_dump_json())[1]


def _workers() -> list[psutil.Process]:
    """Forked from the fork server, each leads its own session."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if os.getsid(process.pid) == process.pid and "forkserver" in " ".join(process.cmdline()):
            found.append(process)
    return found
