"""The launcher's contract on a cluster that is there: `test_launcher` starts one, and runs this file against it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.execution.ray.launcher import RayLauncher
from tests.execution.launcher_contract import LauncherContract, Subject
from tests.support.training import small_spec


def workers_under(pid: int) -> int:
    """Runs on a node: forked from the fork servers of its Ray workers, each leads its own session."""
    count = 0
    for process in psutil.Process(pid).children(recursive=True):
        try:
            forked = "multiprocessing.forkserver" in " ".join(process.cmdline())
            count += forked and os.getsid(process.pid) == process.pid
        except (psutil.Error, OSError):
            continue
    return count


class TestRayLauncher(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
        folder = tmp_path_factory.mktemp("contract")
        weights = folder / "weights.pt"
        weights.write_bytes(b"no weights")

        node = int(os.environ["TEST_NODE_PID"])

        def make(jobs: int = 1, timeout: float | None = None) -> RayLauncher:
            return RayLauncher(
                "cpu",
                address=os.environ["TEST_ADDRESS"],
                jobs=jobs,
                data_dir=digits_dir,
                work_dir=folder / "work",
                timeout=timeout,
                checkpoint_every=0,
                scope=f"{len(made)}",
                note=made.append,
            )

        made: list[str] = []
        yield Subject(
            make=make,
            finishes=lambda seed: small_spec(seed=seed, num_threads=1),
            unhappy={},
            long=small_spec(epochs=5000, num_threads=1),
            refused=small_spec(weights=str(weights), num_threads=1),
            workers=lambda: workers_under(node),
        )
        import ray

        ray.shutdown()
