"""Where runs train: what the options say, and what the machine has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import nvml
from pipeline.design.selection import GridOptions
from pipeline.errors import OutsideError
from pipeline.execution.device import device_of, resolve_device
from pipeline.execution.ray import cluster


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"), [("auto", 1, "cuda"), ("auto", 0, "cpu"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda")]
)
def test_this_machine(wanted: str, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "gpus", lambda: [SimpleNamespace()] * gpus)
    assert resolve_device(wanted) == device_of(GridOptions(device=wanted)) == expected


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "gpus", list)
    with pytest.raises(OutsideError, match="no NVIDIA GPU is visible"):
        resolve_device("cuda")


@pytest.mark.parametrize(("wanted", "gpus", "expected"), [("auto", True, "cuda"), ("auto", False, "cpu")])
def test_a_cluster_is_asked(wanted: str, gpus: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def has_gpus(address: str) -> bool:
        asked.append(address)
        return gpus

    monkeypatch.setattr(cluster, "has_gpus", has_gpus)
    options: dict[str, Any] = {"launcher": "ray", "address": "head:1"}
    assert device_of(GridOptions(device=wanted, **options)) == expected
    assert asked == ["head:1"]
    assert device_of(GridOptions(device="cuda", **options)) == "cuda", "whatever this machine has"
    assert asked == ["head:1"]
