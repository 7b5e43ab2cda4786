"""Connecting to a cluster: what cannot work is told before Ray would try for minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import InputError, OutsideError
from pipeline.execution.ray import cluster
from tests.support.ablate import ROOT, environment


def test_only_nodes_that_live_are_listed() -> None:
    nodes = [
        {"Alive": True, "NodeID": "a", "NodeManagerHostname": "one", "Resources": {"GPU": 2.0, "CPU": 8.0}},
        {"Alive": True, "NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Resources": {}},
        {"Alive": False, "NodeID": "c", "Resources": {"GPU": 1.0}},
    ]
    assert cluster.machines(SimpleNamespace(nodes=lambda: nodes)) == {
        "a": cluster.ClusterNode("a", "one", gpus=2, cpus=8),
        "b": cluster.ClusterNode("b", "10.0.0.2", gpus=0, cpus=0),
    }


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.write_text("0" * 64)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, os.environ.get(name, "0"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


@pytest.mark.usefixtures("token")
def test_a_cluster_without_authentication_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="RAY_AUTH_MODE: 'disabled' is not allowed; allowed: token"):
        cluster.connect("head:1")


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("address", ["nowhere", "http://head:1", "head:port"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(InputError, match=r"--address: .* allowed: auto, local, or HOST:PORT"):
        cluster.connect(address)


def test_without_a_token_nothing_is_tried(token: Path) -> None:
    token.unlink()
    with pytest.raises(OutsideError, match="no token in"):
        cluster.connect("127.0.0.1:9")


@pytest.mark.usefixtures("token")
def test_a_head_that_does_not_answer_is_told_at_once() -> None:
    with pytest.raises(OutsideError, match=r"Ray at 127\.0\.0\.1:9: Connection refused"):
        cluster.connect("127.0.0.1:9")


WORKER_PATH = """
import sys
from pipeline.execution.ray import cluster
ray = cluster.connect("local")
print(*ray.get(ray.remote(lambda: __import__("sys").path).remote()), sep="\\n")
"""


@pytest.mark.slow
def test_workers_do_not_import_from_the_drivers_folder(tmp_path: Path) -> None:
    """Ray puts it first; a cluster that is started here gets this process's environment besides."""
    pytest.importorskip("ray")
    command = [sys.executable, "-P", "-c", WORKER_PATH]
    variables = environment(PYTHONPATH=f":{ROOT}", RAY_USAGE_STATS_ENABLED="0")
    found = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200, check=True
    )
    places = found.stdout.split("\n")
    assert str(ROOT) in places and not {"", str(tmp_path)} & set(places[:-1])
