"""Connection to an existing Ray cluster: address, authentication, nodes, the shared table of blocks.

Ray is imported inside functions only, here and in `node`: the parent half starts without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, OutsideError, first_line, not_allowed
from pipeline.import_path import DISTRIBUTION, path_environment
from pipeline.tracking.credentials import without_account

NAMESPACE = b"ablate"
CONNECT_SECONDS = 5.0  # that the cluster's head may take to answer


@dataclass(frozen=True)
class ClusterNode:
    """A living node as Ray describes it.

    Attributes:
        id: Ray's identifier; a node that comes back has a new one.
        name: host name, for people.
        gpus: all that it has, used or not.
        cpus: likewise.
    """

    id: str
    name: str
    gpus: int
    cpus: int


def connect(address: str) -> Any:
    """Connects this process to the cluster at `address`; the same again does nothing.

    Args:
        address: `auto` (RAY_ADDRESS, or a cluster that runs on this machine), `HOST:PORT` of the head, or `local`
            (starts a cluster of this machine alone, which ends with this process).

    Returns:
        The module `ray`.

    Raises:
        InputError: Ray is not installed, or the address or the authentication mode is not allowed.
        OutsideError: no cluster answers, or it refuses.
    """
    # before Ray is imported: it reads these once
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise not_allowed("RAY_AUTH_MODE", mode, "token (a cluster without authentication runs anybody's code)")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--launcher: 'ray' is not allowed here, Ray is not installed; allowed: local, or first "
                         f"pip install '{DISTRIBUTION}[ray]'") from None  # fmt: skip
    if ray.is_initialized():
        return ray
    _check(address)
    os.environ.update(path_environment())  # a cluster that is started here has it from this process
    options: dict[str, Any] = {"num_gpus": _own_gpus()} if address == "local" else {}
    if address == "local":
        options["include_dashboard"] = False
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE.decode(),
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=_job_config(ray),
            **options,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise OutsideError(f"Ray at {address}: {first_line(error)}") from None
    finally:
        # Ray ends the process at SIGTERM; here that closes what runs
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
    _silence(ray)
    return ray


class _OfNodesAlone(list[str]):
    """An import path that takes nothing from the driver."""

    def extend(self, _folders: object) -> None:
        """Ray puts the driver's working folder first on the import path of every worker."""


def _job_config(ray: Any) -> Any:
    config = ray.job_config.JobConfig()
    config._py_driver_sys_path = _OfNodesAlone()
    return config


def _silence(ray: Any) -> None:
    """Keeps Ray's own news (a node is lost) off standard output, whatever `log_to_driver` says.

    With `--json` standard output is not theirs, and the launcher tells the same.
    """
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


def _check(address: str) -> None:
    """Refuses what Ray would try for minutes, or end the process for."""
    shown = address if address != "auto" else os.environ.get("RAY_ADDRESS", "auto")
    if address != "local":
        _check_token(without_account(shown))
    if shown in ("auto", "local"):
        if shown == "auto" and not _runs_here():
            raise OutsideError(
                "Ray at auto: no cluster runs on this machine and RAY_ADDRESS is not set; name one with --address "
                "HOST:PORT, start one with `ray start --head`, or use --address local"
            )
        return
    host, colon, port = shown.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and len(port) <= 5) or "/" in host:
        raise not_allowed("--address", without_account(shown), "auto, local, or HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OutsideError(f"Ray at {without_account(shown)}: {getattr(error, 'strerror', None) or error}") from None


def _check_token(address: str) -> None:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    with contextlib.suppress(RuntimeError):  # without a home the ~ stays, and no file is found
        path = path.expanduser()
    if not path.is_file():
        raise OutsideError(f"Ray at {address}: no token in {path}; set RAY_AUTH_TOKEN_PATH to the cluster's token file")


def _runs_here() -> bool:
    """Whether `ray start` has left the address of a cluster on this machine."""
    from ray._common import utils

    names: Any = utils
    return Path(names.get_default_ray_temp_dir(), "ray_current_cluster").is_file()


def _own_gpus() -> int:
    from pipeline import nvml

    return len(nvml.gpus())


def machines(ray: Any) -> dict[str, ClusterNode]:
    """Returns the nodes that live, by identifier."""
    living = {}
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            name = node.get("NodeManagerHostname") or node.get("NodeManagerAddress", "?")
            machine = ClusterNode(node["NodeID"], name, int(resources.get("GPU", 0)), int(resources.get("CPU", 0)))
            living[machine.id] = machine
    return living


def on_node(node_id: str) -> Any:
    """Returns Ray's scheduling strategy for a task that may run on this node alone."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def has_gpus(address: str) -> bool:
    """Says whether some node of the cluster has a GPU (`--device auto`).

    Raises:
        InputError, OutsideError: see `connect`.
    """
    return any(machine.gpus for machine in machines(connect(address)).values())


class SharedAssignments:
    """The table of blocks in the cluster's key-value store; the first controller that writes a line wins.

    Args:
        scope: names the tracking store and experiment: other studies have other tables.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope

    def assign(self, block: int, attempt: int, node: str) -> str:
        """See `placement.BlockAssignments.assign`."""
        from ray.experimental import internal_kv

        key = f"{self._scope}/{block}/{attempt}".encode()
        internal_kv._internal_kv_put(key, node.encode(), overwrite=False, namespace=NAMESPACE)
        return str(internal_kv._internal_kv_get(key, namespace=NAMESPACE).decode())
