"""The Ray launcher: it keeps the contract of all launchers, on a cluster of one node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.design.plan import PlannedRun
from pipeline.execution.ray.launcher import RayLauncher
from tests.support.ablate import environment
from tests.support.clusters import RayCluster
from tests.support.training import small_spec


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_keeps_the_contract() -> None:
    """In a process of its own: Ray reads its variables when that starts."""
    cluster = RayCluster()
    try:
        node = cluster.node()
        settings = {**cluster.env, "TEST_ADDRESS": cluster.address, "TEST_NODE_PID": str(node.pid)}
        command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name("launcher_on_cluster.py"))]
        done = subprocess.run(
            command,
            env=environment(**settings),
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=800,
        )
    finally:
        cluster.close()
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


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
