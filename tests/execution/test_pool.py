"""The pool: a thread for each slot, an error that ends all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.errors import OutsideError
from pipeline.execution.pool import RunPool
from tests.support.launchers import FakeLauncher


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
