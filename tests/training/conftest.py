"""What several files of these tests put in place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.training import clocks, worker
from pipeline.training import meter as metering
from pipeline.training.data import inputs
from tests.support.training import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (metering, clocks):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=made))
    return made


@pytest.fixture
def wrap_inputs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a test put wrappers around a run's inputs."""

    def install(change: Any) -> None:
        original = inputs.build_inputs
        monkeypatch.setattr(worker.inputs, "build_inputs", lambda *args: change(original(*args)))

    return install
