"""The pool: a thread for each slot, an error that ends all, the machine watched while nothing runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.plan import PlannedRun
from pipeline.design.spec import Recipe, RunSpec
from pipeline.errors import OutsideError
from pipeline.execution.interference import InterferenceCheck
from pipeline.execution.pool import RunPool
from tests.support.launchers import FakeLauncher


def planned_run(block: int = 0) -> PlannedRun:
    return PlannedRun(RunSpec(model="test_resnet", dataset="digits", recipe=Recipe()), block=block, position=0)


def test_a_thread_for_each_slot(tmp_path: Path) -> None:
    together = threading.Barrier(3)
    names: list[str] = []

    def work() -> None:
        together.wait(30)  # breaks unless there are three at once
        names.append(threading.current_thread().name)

    pool = RunPool(FakeLauncher(tmp_path, jobs=3))
    pool.run(work, "run")
    assert sorted(names) == ["run-0", "run-1", "run-2"]
    assert not pool.stopped and pool.broken is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "journal: No space left on device"),
        (OutsideError("the cluster is gone"), "the cluster is gone"),
    ],
)
def test_an_error_of_one_ends_all(error: Exception, told: str, tmp_path: Path) -> None:
    launcher = FakeLauncher(tmp_path, jobs=2)
    pool = RunPool(launcher)
    first = iter([True, False])

    def work() -> None:
        if next(first):
            raise error
        while not pool.stopped:
            pool.pause(30)

    pool.run(work, "run")
    assert (pool.broken, pool.stopped, pool.interrupted) == (told, True, False)
    assert "cancel" in launcher.calls


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_ends_all_and_is_printed(tmp_path: Path) -> None:
    pool = RunPool(FakeLauncher(tmp_path))

    def work() -> None:
        raise ZeroDivisionError("a bug")

    pool.run(work, "run")
    assert pool.broken == "ZeroDivisionError: a bug"


def test_the_first_reason_is_told_and_a_stop_is_none(tmp_path: Path) -> None:
    pool = RunPool(FakeLauncher(tmp_path))
    pool.stop()
    assert pool.interrupted
    pool.give_up("first")
    pool.give_up("second")
    assert (pool.broken, pool.interrupted) == ("first", False)


def test_threads_without_a_slot_are_surplus(tmp_path: Path) -> None:
    launcher = FakeLauncher(tmp_path, jobs=3)
    pool = RunPool(launcher)
    answers: list[bool] = []
    meet = threading.Barrier(3, action=lambda: setattr(launcher, "jobs", 1))

    def work() -> None:
        meet.wait(30)
        answers.append(pool.surplus())

    pool.run(work, "run")
    assert sorted(answers) == [False, True, True]


class Watch(InterferenceCheck):
    """Notes whether it was asked while nothing runs."""

    def __init__(self, during: Callable[[], Any] = lambda: None) -> None:
        self.asked: list[tuple[int, bool]] = []
        self._during = during

    def before_run(self, block: int, *, alone: bool) -> list[str]:
        self.asked.append((block, alone))
        self._during()
        return ["others compute", "it is hot"] if block else []


def test_reasons_to_doubt_go_with_the_run(tmp_path: Path) -> None:
    watch = Watch()
    pool = RunPool(FakeLauncher(tmp_path), watch)
    assert pool.with_interference(planned_run(0)).tainted == ""
    with pool.running():
        assert pool.with_interference(planned_run(1)).tainted == "others compute; it is hot"
    with pytest.raises(RuntimeError), pool.running():
        raise RuntimeError
    pool.with_interference(planned_run(2))
    assert watch.asked == [(0, True), (1, False), (2, True)]
    assert RunPool(FakeLauncher(tmp_path)).with_interference(planned_run(1)).tainted == ""


def test_no_run_begins_while_the_machine_is_watched(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        with pool.running():
            ended.set()

    def during() -> None:
        threading.Thread(target=run, daemon=True).start()
        assert begun.wait(30)
        assert not ended.wait(0.1)

    pool = RunPool(FakeLauncher(tmp_path), Watch(during))
    pool.with_interference(planned_run())
    assert ended.wait(30)
