"""What every call has: an end by a signal."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from pipeline.commands import calls


def test_a_signal_is_an_interrupt_and_the_line_to_go_on_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate", "sync", "--tracking-uri", "http://me:secret@host"])
    with pytest.raises(KeyboardInterrupt), calls.stoppable():
        os.kill(os.getpid(), signal.SIGXCPU)
    assert calls.interrupted() == 130
    assert capsys.readouterr().err == "ablate: interrupted; go on with: ablate sync --tracking-uri http://host\n"
