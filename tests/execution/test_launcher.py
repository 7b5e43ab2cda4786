"""The launchers that train nothing keep the contract too: what is proved with them holds for real ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench.orchestration import NoTraining
from pipeline.design.spec import Recipe, RunSpec
from pipeline.execution.launcher import ChoosesNext, PreparesNext
from tests.execution.launcher_contract import LauncherContract, Subject
from tests.support.launchers import FakeLauncher
from tests.support.tuning import Device


def spec_of(seed: int, batch_size: int = 64) -> RunSpec:
    return RunSpec(model="test_resnet", dataset="digits", seed=seed, recipe=Recipe(batch_size=batch_size))


class TestFakeLauncher(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        folder = tmp_path_factory.mktemp("fake")
        made: list[FakeLauncher] = []

        def make(jobs: int, **options: Any) -> FakeLauncher:
            made.append(FakeLauncher(folder, jobs, lasting=[9], refused=[8], **options))
            return made[-1]

        def unhappy(outcome: Any) -> Any:
            return lambda: (make(1, outcomes={5: outcome}), spec_of(5))

        return Subject(
            make=make,
            finishes=spec_of,
            unhappy={outcome: unhappy(outcome) for outcome in ("failed", "oom", "timeout")},
            long=spec_of(9),
            refused=spec_of(8),
            workers=lambda: sum(launcher.running for launcher in made),
        )


class TestNoTraining(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return Subject(make=lambda _: NoTraining(tmp_path_factory.getbasetemp()), finishes=spec_of)


class TestSimulatedDevice(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Subject:
        return Subject(
            make=lambda jobs: Device(jobs=jobs),
            finishes=spec_of,
            unhappy={
                "failed": lambda: (Device(fails={64: 1}), spec_of(1)),
                "oom": lambda: (Device(largest=32), spec_of(1)),
            },
        )


class TestInstant(LauncherContract):
    """That of `experiments/scale.py`."""

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
        path = Path(__file__).parents[2] / "experiments" / "scale.py"
        spec = importlib.util.spec_from_file_location("scale", path)
        assert spec is not None and spec.loader is not None
        scale = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(scale)
        folder = tmp_path_factory.mktemp("instant")
        yield Subject(make=lambda jobs: scale.Instant(folder, jobs, 0.0), finishes=spec_of)


def test_capabilities_are_seen_by_their_methods(tmp_path: Path) -> None:
    class Preparing(FakeLauncher):
        def prepare(self, spec: RunSpec, after: RunSpec) -> None: ...

    plain, preparing = FakeLauncher(tmp_path), Preparing(tmp_path)
    assert not isinstance(plain, PreparesNext | ChoosesNext)
    assert isinstance(preparing, PreparesNext) and not isinstance(preparing, ChoosesNext)
