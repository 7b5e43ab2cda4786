"""Workers that stand still, in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.design.records import End, Metrics, Ready, Record, Turn, TurnOrder
from pipeline.design.spec import RunSpec, TurnPlan
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.execution.local.standing import Patience, StandingWorker
from tests.support.training import small_spec


def standing_spec(**recipe: object) -> RunSpec:
    return small_spec(max_train_samples=200, **recipe).model_copy(update={"turns": TurnPlan(multiple=64)})


@pytest.fixture
def launcher(digits_dir: Path, tmp_path: Path) -> Iterator[LocalLauncher]:
    before = dict(os.environ)
    yield LocalLauncher("cpu", gpus=[], jobs=1, data_dir=digits_dir, work_dir=tmp_path / "work")
    os.environ.clear()
    os.environ.update(before)


def told(worker: StandingWorker, kind: type[Record], seconds: float | None = 60) -> list[Record]:
    return list(worker.until(kind, seconds))


def take(worker: StandingWorker, number: int, images: int = 128, head: int = 0) -> Record:
    worker.order(TurnOrder(number=number, images=images, head=head))
    return told(worker, Turn)[-1]


def test_a_cell_is_set_up_takes_its_turns_and_ends(launcher: LocalLauncher) -> None:
    worker = launcher.stand(standing_spec(), None)
    ready = told(worker, Ready)[-1]
    assert isinstance(ready, Ready) and (ready.epoch_images, ready.ahead_images) == (192, 0), "whole multiples alone"
    assert ready.edge_seconds < 0.05
    for number in (3, 4):
        turn = take(worker, number, head=64)
        assert isinstance(turn, Turn) and (turn.number, turn.images, turn.updates) == (number, 128, 4)
        assert 0 < turn.seconds < 30 and turn.joules is None
    worker.dismiss()
    ended = told(worker, End)
    assert isinstance(ended[-1], End) and ended[-1].outcome == "finished"
    values: dict[str, float] = {}
    for record in ended:
        values |= record.values if isinstance(record, Metrics) else {}
    assert values["updates/count"] == 2 * 6 and values["memory/host_peak_rss_mib"] > 10
    assert not any(name.startswith(("test/", "val/", "time/train")) for name in values)
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.slow
@pytest.mark.quiet
def test_a_standing_cell_uses_no_processor(launcher: LocalLauncher) -> None:
    """Under 1 % of a core, also with loader workers; counted over all of its processes."""
    workers = [launcher.stand(standing_spec(input_pipeline=kind), None) for kind in ("gather", "loader")]
    try:
        for worker in workers:
            told(worker, Ready)
            take(worker, 1)
        time.sleep(1.0)  # what reads ahead comes to its end
        families = [psutil.Process(worker.pid) for worker in workers]
        families += [child for process in families for child in process.children(recursive=True)]
        assert len(families) == 4, "two loader workers"
        before = [process.cpu_times() for process in families]
        began = time.monotonic()
        time.sleep(5.0)
        took = time.monotonic() - began
        for process, was in zip(families, before, strict=True):
            now = process.cpu_times()
            assert (now.user + now.system - was.user - was.system) / took < 0.01
    finally:
        for worker in workers:
            worker.kill()


def test_one_that_dies_or_hangs_is_told(launcher: LocalLauncher) -> None:
    worker = launcher.stand(standing_spec(), None)
    told(worker, Ready)
    os.kill(worker.pid, signal.SIGKILL)
    end = take(worker, 1)
    assert isinstance(end, End) and end.outcome == "failed" and "SIGKILL" in str(end.error)
    worker = launcher.stand(standing_spec(), None)
    told(worker, Ready)
    os.kill(worker.pid, signal.SIGSTOP)
    worker.order(TurnOrder(number=1, images=64, head=0))
    end = told(worker, Turn, 0.5)[-1]
    assert isinstance(end, End) and end.outcome == "timeout" and "0.5 s" in str(end.error)
    assert not psutil.pid_exists(worker.pid)


def test_one_that_is_killed_is_gone(launcher: LocalLauncher) -> None:
    worker = launcher.stand(standing_spec(), None)
    told(worker, Ready)
    worker.kill()
    assert not psutil.pid_exists(worker.pid)


def test_after_a_cancel_it_ends_as_interrupted(launcher: LocalLauncher) -> None:
    worker = launcher.stand(standing_spec(), None)
    told(worker, Ready)
    launcher.cancel()
    worker.order(TurnOrder(number=1, images=64 * 10_000, head=0))
    end = told(worker, Turn)[-1]
    assert isinstance(end, End) and end.outcome == "interrupted" and not psutil.pid_exists(worker.pid)


def test_patience() -> None:
    assert not Patience(None).is_over()
    patience = Patience(0.0)
    time.sleep(0.01)
    assert patience.is_over()
    patience.renew(60)
    assert not patience.is_over()
