"""The first signal closes what runs, the second one leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from pipeline.execution.interrupt import command_line, interruptible, raised, resume_command
from pipeline.host import ENDING_SIGNALS
from tests.support.launchers import FakeLauncher, ListenerLog
from tests.support.processes import default_signal


class Stopped:
    """Counts how often it was stopped."""

    def __init__(self) -> None:
        self.times = 0

    def stop(self) -> None:
        self.times += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_the_second_kills_and_leaves(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    launcher, listener, running = FakeLauncher(tmp_path), ListenerLog(), Stopped()
    before = signal.getsignal(number)
    with interruptible(launcher, listener, lambda: running):
        os.kill(os.getpid(), number)
        assert (running.times, launcher.calls, left) == (1, [], [])
        assert listener.notes == ["interrupted: closing the running cells (once more to leave at once)"]
        os.kill(os.getpid(), number)
        assert (launcher.calls, left) == (["kill"], [130])
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [each for each in ENDING_SIGNALS if each not in (signal.SIGINT, signal.SIGTERM)])
def test_every_signal_that_would_end_the_process_closes_what_runs(number: signal.Signals, tmp_path: Path) -> None:
    running, listener = Stopped(), ListenerLog()
    with default_signal(number), interruptible(FakeLauncher(tmp_path), listener, lambda: running):
        os.kill(os.getpid(), number)
    assert running.times == 1 and len(listener.notes) == 1


def test_signals_that_come_in_numbers_do_not_insist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    running = Stopped()
    with default_signal(signal.SIGHUP), interruptible(FakeLauncher(tmp_path), ListenerLog(), lambda: running):
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert (running.times, left) == (1, [])


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = Stopped()
        with raised(), interruptible(FakeLauncher(tmp_path), ListenerLog(), lambda: running):
            os.kill(os.getpid(), signal.SIGHUP)
        assert running.times == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_anything_runs_a_signal_is_an_interrupt(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible(FakeLauncher(tmp_path), ListenerLog(), lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_than_the_main_one_sets_no_handlers(tmp_path: Path) -> None:
    seen: list[bool] = []

    def enter() -> None:
        before = signal.getsignal(signal.SIGINT)
        with interruptible(FakeLauncher(tmp_path), ListenerLog(), lambda: None):
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(30)
    assert seen == [True]


def test_the_command_is_kept_as_it_was_typed_but_for_passwords() -> None:
    words = ["grid", "--fresh", "--set", "a b=1", "--tracking-uri", "https://me:secret@host/"]
    assert command_line(words) == "ablate grid --fresh --set 'a b=1' --tracking-uri https://host/"
    assert resume_command(words) == "ablate grid --set 'a b=1' --tracking-uri https://host/"
