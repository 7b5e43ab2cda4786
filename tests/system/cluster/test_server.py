"""PostgreSQL, `mlflow server` on it and Ray, all real: two controllers at once, with and without losses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ablate import ended, environment
from tests.support.clusters import (
    Postgres,
    RayCluster,
    assert_blocks_kept_together,
    end_group,
    finished,
    wait_ended,
)
from tests.support.processes import Row, Workspace, assert_once, until
from tests.support.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]
# quickstart's 48 cells, with as little training as its data sets allow
SMALL = ("epochs=1", "max_train_samples=128", "max_test_samples=100")
QUICKSTART = ["grid", "--study", "quickstart", "--device", "cpu"]
CELLS = 48
PATIENCE = 900  # a busy machine needs 400 s


@dataclass
class Site:
    """All components, and the nodes of the Ray cluster."""

    postgres: Postgres
    server: Server
    cluster: RayCluster
    nodes: list[subprocess.Popen[bytes]]

    def controller(self, folder: Path, experiment: str) -> Workspace:
        """A folder to run `ablate` in, on this server and this cluster."""
        env = {**self.cluster.env, "MLFLOW_TRACKING_URI": self.server.uri, "MLFLOW_EXPERIMENT_NAME": experiment}
        return Workspace(folder, env=env)

    def start(self, work: Workspace, *more: str) -> subprocess.Popen[str]:
        """Starts quickstart there."""
        words = [*QUICKSTART, *more, "--json", "--launcher", "ray", "--address", self.cluster.address]
        return work.start(*words, *(word for setting in SMALL for word in ("--set", setting)))

    def rows(self, experiment: str) -> list[Row]:
        """The cells' rows in PostgreSQL."""
        return self.postgres.rows("mlflow", experiment=experiment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Started once; starting takes longer than some of the tests."""
    folder = tmp_path_factory.mktemp("site")
    postgres = Postgres(folder)
    server = Server(folder / "server", postgres.create("mlflow"))
    cluster = RayCluster()
    found = Site(postgres, server, cluster, [])
    try:
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(server.start)
            found.nodes += [cluster.node(), cluster.node()]
            starting.result()
        yield found
    finally:
        server.stop()
        cluster.close()
        postgres.close()


def test_two_controllers_and_two_ray_workers_at_once(site: Site, tmp_path: Path) -> None:
    """Quickstart's baselines in two blocks, one on each node; the test with losses has all its cells."""
    controllers = [site.controller(tmp_path / name, "peace") for name in ("a", "b")]
    running = [site.start(work, "--techniques", "none", "--seeds", "2") for work in controllers]
    wait_ended(running, PATIENCE)
    for call in (ended(process) for process in running):
        assert call.code == 0, call.err
        assert call.json()["finished"] == CELLS // 4, "one document on standard output, and nothing else"
    rows = site.rows("peace")
    assert_once(rows, CELLS // 4)
    assert_blocks_kept_together(rows)
    assert not [row.name for row in rows if row.tags.get("ablate.moved")]
    owners = {row.tags["ablate.owner"] for row in finished(rows)}
    assert len(owners) == 2, "both controllers have run cells"
    assert len({row.tags["env.ray_node"] for row in finished(rows)}) == 2, "and both nodes"
    (parent,) = site.postgres.rows("mlflow", "grid", "peace")
    assert parent.status == "FINISHED"
    told = controllers[1].call("status", "quickstart", "--json")
    assert '"finished": 12' in told.out


def test_server_and_a_ray_worker_are_killed_and_come_back(site: Site, tmp_path: Path) -> None:
    controllers = [site.controller(tmp_path / name, "war") for name in ("a", "b")]
    running = [site.start(work) for work in controllers]
    until(lambda: len(finished(site.rows("war"))) >= 6, PATIENCE, "six cells")
    busy = {row.tags["env.ray_node"] for row in site.rows("war") if "env.ray_node" in row.tags}
    assert len(busy) == 1, "one block, one node"
    site.server.stop()
    end_group(site.nodes[0])
    time.sleep(5)
    site.server.start()
    site.nodes[0] = site.cluster.node()
    wait_ended(running, PATIENCE)
    calls = [ended(process) for process in running]
    assert [call.code for call in calls] == [0, 0], calls
    rows = site.rows("war")
    assert_once(rows, CELLS)
    assert_blocks_kept_together(rows)


OPTUNA = """\
import sys
import optuna
study = optuna.create_study(study_name="s", storage=sys.argv[1], load_if_exists=True)
for _ in range(2):
    trial = study.ask()
    study.tell(trial, (trial.suggest_float("x", -1, 1)) ** 2)
"""


def test_optuna_lives_on_the_same_postgresql(site: Site, tmp_path: Path) -> None:
    uri = site.postgres.create("optuna")
    for _ in range(2):  # two processes, one after the other, on one study
        subprocess.run([sys.executable, "-c", OPTUNA, uri], env=environment(), cwd=tmp_path, check=True, timeout=120)
    with site.postgres.connect("optuna") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT number) FROM trials WHERE state = 'COMPLETE'")
        assert cursor.fetchone() == (4, 4)
