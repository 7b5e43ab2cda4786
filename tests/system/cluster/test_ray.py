"""The grid on a real Ray cluster of two nodes: blocks, artifacts, loss of a node, versions, overhead."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

import pipeline
from tests.support.ablate import ended
from tests.support.clusters import RayCluster, assert_blocks_kept_together, end_group, finished
from tests.support.processes import Workspace, assert_once, lines_of, until, working_in

CELLS = 8  # two techniques in two blocks


def on_the_cluster(test: Any) -> Any:
    """They share the cluster: starting it takes longer than most of what is tested."""
    for mark in (pytest.mark.slow, pytest.mark.timeout(600)):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head and no node yet."""
    found = RayCluster()
    yield found
    found.close()


@pytest.fixture(scope="module")
def started() -> list[Popen[bytes]]:
    """All nodes that were started for the tests that need two."""
    return []


@pytest.fixture
def nodes(cluster: RayCluster, started: list[Popen[bytes]]) -> list[Popen[bytes]]:
    """Two nodes; one that an earlier test has killed is replaced."""
    started[:] = [node for node in started if node.poll() is None]
    while len(started) < 2:
        started.append(cluster.node())
    return started


def place(folder: Path, cluster: RayCluster) -> tuple[Workspace, list[str]]:
    """A folder to run in, and the words that send its grid to the cluster."""
    return Workspace(folder, env=cluster.env), ["--launcher", "ray", "--address", cluster.address]


def durations(database: Path) -> list[float]:
    """Seconds from the opening to the end of each finished cell."""
    with closing(sqlite3.connect(database)) as store:
        found = store.execute(
            "SELECT (end_time - start_time) / 1000.0 FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'ablate.kind' AND tags.value = 'run' AND status = 'FINISHED'"
        ).fetchall()
    return [float(seconds) for (seconds,) in found]


@on_the_cluster
def test_versions_are_compared(cluster: RayCluster, tmp_path: Path) -> None:
    """A node with another version of the program is told before anything runs."""
    other = tmp_path / "other"
    shutil.copytree(Path(pipeline.__file__).parent, other / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (other / "pipeline" / "__init__.py").write_text('"""Another one."""\n__version__ = "0.0.1"\n')
    node = cluster.node(env={"PYTHONPATH": str(other)})
    try:
        work, words = place(tmp_path / "versions", cluster)
        call = work.call_grid(*words, timeout=240)
    finally:
        end_group(node)
    assert call.code == 3 and len(call.lines) == 1, call.err
    assert "ablate is 0.0.1 there and" in call.err and pipeline.__version__ in call.err
    assert not work.database.exists()


def both_blocks(work: Workspace) -> bool:
    """Whether each block has a finished cell."""
    return len({row.tags["ablate.block"] for row in finished(work.rows())}) == 2


@on_the_cluster
def test_a_lost_nodes_cells_run_elsewhere(cluster: RayCluster, nodes: list[Popen[bytes]], tmp_path: Path) -> None:
    work, words = place(tmp_path / "loss", cluster)
    grid = work.grid(*words, "--seeds", "2", "--json")
    # of both blocks some cells have run, and one block's node is killed while it runs another
    # (the node of the other version has just died too, and Ray may list it still: it must not end the grid)
    until(lambda: both_blocks(work) or grid.poll() is not None, 300, "a cell of each block")
    assert grid.poll() is None, ended(grid)
    assert_blocks_kept_together(work.rows())
    end_group(nodes[1])
    call = ended(grid, 400)
    assert call.code == 0, call.err
    told = call.json()
    assert told["finished"] == CELLS
    rows = work.rows()
    assert_once(rows, CELLS)
    assert_blocks_kept_together(rows)
    by_block = {row.tags["ablate.block"]: set[str]() for row in finished(rows)}
    for row in finished(rows):
        by_block[row.tags["ablate.block"]].add(row.tags["env.ray_node"])
    assert sorted(len(found) for found in by_block.values()) == [1, 2], "the lost node's block has moved"
    assert "is lost: its cells run again elsewhere" in call.err
    for row in finished(rows):  # what the runs wrote on the nodes has come back
        assert list((work.state / "artifacts").rglob(f"{row.run_id}/artifacts/figures/confusion.png")), row.name
        assert os.getuid() or row.tags["env.nice"] == "0", "Ray's low priority is undone where that is allowed"
        assert row.tags["env.hostname"] and row.params["nproc"] == "1"
    report = work.call("report", "small", "--json")
    assert report.code == 0 and "moved" in json.dumps(report.json()), "the report tells of the move"


@on_the_cluster
@pytest.mark.quiet
@pytest.mark.usefixtures("nodes")
def test_overhead_is_small(cluster: RayCluster, tmp_path: Path) -> None:
    """Seconds per run beyond those of the local launcher, medians of 4 runs each, on one slot each."""
    remote, words = place(tmp_path / "remote", cluster)
    local = Workspace(tmp_path / "local")
    for work, flags in ((local, []), (remote, words)):
        call = work.call_grid(*flags, timeout=500)
        assert call.code == 0, call.err
    here, there = (statistics.median(durations(work.database)) for work in (local, remote))
    print(f"seconds per run: {here:.2f} local, {there:.2f} through Ray")
    assert there - here <= 2.0


@on_the_cluster
@pytest.mark.usefixtures("nodes")
def test_an_interrupted_grid_leaves_nothing_running(cluster: RayCluster, tmp_path: Path) -> None:
    work, words = place(tmp_path / "interrupt", cluster)
    grid = work.grid(*words, "--set", "epochs=500")
    until(lambda: any(row.status == "RUNNING" and row.points for row in work.rows()), 120, "a running cell")
    grid.send_signal(2)
    call = ended(grid, 120)
    assert call.code == 130 and "go on with: ablate grid" in call.err
    assert {row.status for row in work.rows()} == {"KILLED"}
    until(lambda: not working_in(work.folder), 20, "the end of all processes")


def speed(work: Workspace, *words: str) -> Popen[str]:
    """Starts `ablate speed` on two models, so that there are two groups."""
    small = ("--set", "max_train_samples=192", "--min-rounds", "8", "--max-seconds", "200")
    return work.start("speed", "--study", work.file.name, "--device", "cpu", *small, *words)


@on_the_cluster
@pytest.mark.usefixtures("nodes")
def test_cells_take_turns_on_one_node(cluster: RayCluster, tmp_path: Path) -> None:
    work, words = place(tmp_path / "turns", cluster)
    call = ended(speed(work, *words, "--precision", "0.9", "--json"), 300)
    assert call.code == 0, call.err
    (group,) = call.json()["groups"]
    assert group["rounds"] >= 8 and {cell["outcome"] for cell in group["cells"]} == {"finished"}
    rows = work.rows("turns")
    assert len(rows) == 4 and {row.status for row in rows} == {"FINISHED"}
    assert len({row.tags["env.ray_node"] for row in rows}) == 1, "a round is within one machine"
    for row in rows:
        assert "round/images_per_second" in row.metrics and json.loads(row.tags["ablate.engagement"])["update_norm"] > 0
        assert (work.state / "work").is_dir()
    until(lambda: not working_in(work.folder), 20, "the end of all processes")


@on_the_cluster
def test_a_lost_node_ends_its_rounds_and_the_same_call_goes_on(
    cluster: RayCluster, nodes: list[Popen[bytes]], tmp_path: Path
) -> None:
    work, words = place(tmp_path / "turns", cluster)
    call = speed(work, *words, "--precision", "0.00001")
    lines_of(call, r"round [1-9]\d*:")
    for node in nodes:
        end_group(node)
    lost = ended(call, 300)
    assert lost.code == 1 and "was lost" in lost.out + lost.err, (lost.out, lost.err)
    rows = work.rows("turns")
    made = [{step for key, step, _, _ in row.points if key == "round/place"} for row in rows]
    assert {row.status for row in rows} == {"KILLED"} and all(len(each) >= 3 and each == made[0] for each in made)
    nodes[:] = [cluster.node(), cluster.node()]
    again = ended(speed(work, *words, "--precision", "0.9", "--json"), 300)
    assert again.code == 0, again.err
    (group,) = again.json()["groups"]
    assert group["rounds"] >= max(made[0]) and {cell["outcome"] for cell in group["cells"]} == {"finished"}
    until(lambda: not working_in(work.folder), 20, "the end of all processes")


@on_the_cluster
@pytest.mark.usefixtures("nodes")
def test_interrupted_turns_leave_nothing_running(cluster: RayCluster, tmp_path: Path) -> None:
    work, words = place(tmp_path / "turns", cluster)
    call = speed(work, *words, "--precision", "0.00001")
    until(lambda: any(row.points for row in work.rows("turns")) or call.poll() is not None, 200, "a round")
    call.send_signal(2)
    done = ended(call, 120)
    assert done.code == 130, done.err
    assert {row.status for row in work.rows("turns")} == {"KILLED"}
    until(lambda: not working_in(work.folder), 20, "the end of all processes")


@pytest.mark.parametrize(
    ("words", "env", "code", "told"),
    [
        (["--address", "nowhere"], {}, 2, "--address: 'nowhere' is not allowed; allowed: auto, local, or HOST:PORT"),
        (["--address", "127.0.0.1:9"], {}, 3, "127.0.0.1:9: Connection refused"),
        ([], {}, 3, "no cluster runs on this machine"),
        ([], {"RAY_AUTH_MODE": "disabled"}, 2, "RAY_AUTH_MODE: 'disabled' is not allowed; allowed: token"),
    ],
)
def test_what_cannot_work_is_one_line(
    words: list[str], env: dict[str, str], code: int, told: str, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    settings = {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(tmp_path), **env}
    work = Workspace(tmp_path / "work", env=settings)
    call = work.call_grid("--launcher", "ray", *words)
    assert (call.code, len(call.lines)) == (code, 1), call.err
    assert told in call.err
    assert not work.database.exists()


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path(pipeline.__file__).parents[1])])
    work = Workspace(tmp_path / "work", env={"PYTHONPATH": path})
    call = work.call_grid("--launcher", "ray")
    assert (call.code, len(call.lines)) == (2, 1), call.err
    assert "pip install 'ablate-training[ray]'" in call.err
