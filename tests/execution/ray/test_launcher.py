"""The Ray launcher keeps the contract, on a cluster of one node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.design.plan import PlannedRun
from pipeline.execution.ray.launcher import RayLauncher
from tests.execution.launcher_contract import LauncherContract, Subject
from tests.support.clusters import RayCluster
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


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestRayLauncher(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
        folder = tmp_path_factory.mktemp("contract")
        weights = folder / "weights.pt"
        weights.write_bytes(b"no weights")

        cluster = RayCluster()
        node = cluster.node()

        def make(jobs: int = 1, timeout: float | None = None) -> RayLauncher:
            return RayLauncher(
                "cpu",
                address=cluster.address,
                jobs=jobs,
                data_dir=digits_dir,
                work_dir=folder / "work",
                timeout=timeout,
                checkpoint_every=0,
                scope=f"{len(made)}",
                note=made.append,
            )

        made: list[str] = []
        before = dict(os.environ)
        os.environ.update(cluster.env)  # before Ray is imported
        yield Subject(
            make=make,
            finishes=lambda seed: small_spec(seed=seed, num_threads=1),
            unhappy={},
            long=small_spec(epochs=5000, num_threads=1),
            refused=small_spec(weights=str(weights), num_threads=1),
            workers=lambda: workers_under(node.pid),
        )
        import ray

        ray.shutdown()
        cluster.close()
        os.environ.clear()
        os.environ.update(before)


def test_before_the_start_there_is_nothing_to_end(tmp_path: Path) -> None:
    """A signal may come at any time."""
    launcher = RayLauncher(
        "cpu",
        address="nowhere",
        jobs=None,
        data_dir=None,
        work_dir=tmp_path,
        timeout=None,
        checkpoint_every=0,
        scope="",
        note=lambda _: None,
    )
    launcher.kill()
    launcher.cancel()
    assert launcher.jobs == 0
    launcher.release(PlannedRun(small_spec(), block=0, position=0))  # was not chosen: nothing to give back
