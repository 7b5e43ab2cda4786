"""A run's stream: records pass, files go into its folder, whatever breaks becomes its last record."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.records import End, Phase, Record
from pipeline.errors import OutsideError
from pipeline.execution.ray.node import File, Request
from pipeline.execution.ray.placement import LocalAssignments, NodeSlots
from pipeline.execution.ray.stream import RunStreams, WorkerLostError, keep_file
from tests.support.fake_ray import FakeRay, OutOfMemoryError, RayError, RayTaskError, TaskCancelledError

PHASE = Phase(time=1.0, name="setup")
END = End(time=2.0, outcome="finished")


def followed(folder: Path, items: Iterable[Any], *, cancelled: bool = False) -> tuple[list[Record], End]:
    streams = RunStreams(FakeRay(), Request("cpu", None, None, 0), NodeSlots(LocalAssignments()), lambda: cancelled)
    records: list[Record] = []
    generator = streams.follow(tuple(items), folder)  # hashable, as Ray's is
    while True:
        try:
            records.append(next(generator))
        except StopIteration as stop:
            return records, stop.value


def test_records_pass_and_files_are_kept(tmp_path: Path) -> None:
    items = [PHASE.model_dump_json(), File("figures/a.png", b"x"), END.model_dump_json(), "never read"]
    assert followed(tmp_path, items) == ([PHASE], END)
    assert (tmp_path / "figures" / "a.png").read_bytes() == b"x"


def test_something_that_is_no_record_fails_the_run_alone(tmp_path: Path) -> None:
    records, end = followed(
        tmp_path, [PHASE.model_dump_json(), '{"type": "metrics", "time": NaN}', END.model_dump_json()]
    )
    assert (records, end.outcome, end.error) == ([PHASE], "failed", "the worker sent something that is no record")


@pytest.mark.parametrize(
    ("error", "cancelled", "outcome", "told"),
    [
        (TaskCancelledError(), False, "interrupted", "cancelled"),
        (OutOfMemoryError("x\nnode is full"), False, "oom", "node is full"),
        (RayTaskError("x\nValueError: bad"), False, "failed", "ValueError: bad"),
        (RayTaskError("x\nKeyboardInterrupt"), True, "interrupted", "cancelled"),
        (None, False, "failed", "its stream ended without a last record"),
        (None, True, "interrupted", "cancelled"),
    ],
)
def test_what_breaks_is_the_last_record(
    error: Exception | None, cancelled: bool, outcome: str, told: str, tmp_path: Path
) -> None:
    items = [PHASE.model_dump_json(), *([error] if error else [])]
    records, end = followed(tmp_path, items, cancelled=cancelled)
    assert (records, end.outcome, end.error) == ([PHASE], outcome, told)
    assert end.time <= time.time()


def test_a_lost_worker_is_told_to_the_launcher(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match="RayError"):
        followed(tmp_path, [RayError("node died")])


def test_a_reader_that_leaves_cancels_the_task(tmp_path: Path) -> None:
    ray = FakeRay()
    streams = RunStreams(ray, Request("cpu", None, None, 0), NodeSlots(LocalAssignments()), lambda: False)
    items = (PHASE.model_dump_json(), END.model_dump_json())
    records = streams.follow(items, tmp_path)
    next(records)
    streams.cancel(force=True)
    assert ray.cancelled == [items]
    records.close()
    assert ray.cancelled == [items, items]
    streams.cancel(force=True)
    assert len(ray.cancelled) == 2, "nothing is followed any more"


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a/../../outside"])
def test_a_file_outside_of_the_run_s_folder_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="outside of its folder"):
        keep_file(tmp_path / "run", File(path, b"x"))
