"""Waiting that lets signals through, and functions in the background."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from pipeline.execution.threads import Background, LongWait, join, told_if_long


def test_join_waits_for_all_and_lets_signal_handlers_run() -> None:
    heard = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: heard.set())
    try:
        threads = [threading.Thread(target=heard.wait, args=(30,), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        join(*threads)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard.is_set(), "the handler has run, or the threads would still wait"
    assert not any(thread.is_alive() for thread in threads)


def test_a_background_function_goes_on_and_gives_its_value() -> None:
    go = threading.Event()
    call = Background(lambda: (go.wait(30), "value")[1])
    go.set()
    assert call.result() == call.result() == "value"


def test_what_a_background_function_raises_is_raised_where_it_is_asked() -> None:
    def fails() -> Any:
        raise SystemExit("stopped")

    call = Background(fails)
    call.wait()
    with pytest.raises(SystemExit, match="stopped"):
        call.result()


def test_what_takes_long_is_told_and_what_does_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.threads.LONG_SECONDS", 0.05)
    told: list[str] = []
    with told_if_long(told.append, "nothing"):
        pass
    with told_if_long(told.append, "the store"):
        time.sleep(0.3)
    assert told == ["waiting for the store"]


def test_each_wait_in_turns_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.threads.LONG_SECONDS", 0.05)
    told: list[str] = []
    wait = LongWait(told.append, "others")
    wait.goes_on()
    assert told == []
    for _ in range(2):
        for _ in range(4):
            wait.goes_on()
            time.sleep(0.03)
        wait.is_over()
    wait.goes_on()
    assert told == ["waiting for others"] * 2
