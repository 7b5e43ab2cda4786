"""The node's side: what it is, and one cell in a process of its own whose files travel in the stream."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.design.records import Artifact, End, Record, Tags
from pipeline.execution.ray import node
from pipeline.execution.ray.node import File, Request
from tests.support.training import small_spec


@pytest.fixture
def request_of(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Request]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    yield Request("cpu", str(digits_dir), None, 0)
    node.launcher_of.cache_clear()
    os.environ.clear()
    os.environ.update(before)


def test_facts_are_all_that_is_compared() -> None:
    facts = node.facts("cpu")
    assert set(node.COMPARED) | {"hostname", "model"} == set(facts)
    assert all(facts.values())


def test_a_cell_sends_its_files_before_the_records_that_name_them(request_of: Request, tmp_path: Path) -> None:
    stale = tmp_path / "ablate-ray-4194305-x"  # of a Ray worker that is gone
    stale.mkdir()
    run = node.run_cell(request_of, small_spec().model_dump_json(), "node-1", "it moved", False, None)
    items: list[Record | File] = [node.parse(item) for item in run]
    assert isinstance(items[0], Tags)
    assert items[0].values["env.ray_node"] == "node-1"
    assert items[0].values["ablate.moved"] == items[0].values["ablate.tainted"] == "it moved"
    assert isinstance(items[-1], End) and items[-1].outcome == "finished"
    sent = [item.path for item in items if isinstance(item, File)]
    for artifact in (item for item in items if isinstance(item, Artifact)):
        assert items.index(artifact) > [getattr(item, "path", "") for item in items].index(artifact.path)
        assert artifact.path in sent
    assert "log.txt" in sent
    assert not stale.exists()
    assert not [path for path in tmp_path.glob("ablate-ray-*/*") if path.name != "preflight.log"], "nothing stays"
