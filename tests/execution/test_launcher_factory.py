"""The launcher that the options ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import nvml
from pipeline.design.selection import GridOptions
from pipeline.errors import InputError
from pipeline.execution.launcher import Launcher
from pipeline.execution.launcher_factory import make_launcher
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.execution.ray.launcher import RayLauncher


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def made(folder: Path, gpus: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Launcher:
    listed = [SimpleNamespace(uuid=f"GPU-{number}") for number in range(gpus)]
    monkeypatch.setattr(nvml, "gpus", lambda: listed)
    chosen = GridOptions(**options)
    return make_launcher(
        chosen,
        "cuda" if gpus else "cpu",
        folder,
        "scope",
        lambda _: None,
        timeout=chosen.timeout,
        checkpoint_every=chosen.checkpoint_every,
        nproc=chosen.nproc,
    )


@pytest.mark.parametrize(
    ("gpus", "options", "jobs"),
    [
        (0, {}, 1),
        (0, {"jobs": 3}, 3),
        (4, {}, 4),
        (4, {"jobs": 2}, 2),
        (4, {"nproc": 2}, 2),
        (3, {"nproc": 2}, 1),
    ],
)
def test_slots_of_this_machine(
    gpus: int, options: dict[str, Any], jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = made(tmp_path, gpus, monkeypatch, **options)
    assert isinstance(launcher, LocalLauncher) and launcher.jobs == jobs


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"jobs": 3}, "--jobs: 3 is not allowed; allowed: at most one run per GPU, of which 2 are visible"),
        ({"nproc": 3}, "--nproc: 3 is not allowed; allowed: at most one process per GPU, of which 2 are visible"),
        ({"nproc": 2, "jobs": 2}, "(2 of them for each)"),
    ],
)
def test_more_than_the_gpus_is_refused(
    options: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as caught:
        made(tmp_path, 2, monkeypatch, **options)
    assert told in str(caught.value)


def test_a_cluster_s_launcher_looks_at_no_gpu_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(made(tmp_path, 1, monkeypatch, launcher="ray", jobs=5), RayLauncher)
