"""`ablate ui`: MLflow's web interface on the store that `ablate` writes, or Optuna's on the storage of the tunings.

A bare `mlflow ui` opens another file.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from pipeline.commands.command_options import UiOptions
from pipeline.errors import InputError, OutsideError
from pipeline.paths import STATE_DIR
from pipeline.tracking.uri import resolve_uri, sqlite_file


def run_ui(options: UiOptions) -> int:
    """Runs one of the two servers until it is stopped.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no such store, or a server's address was given.
        OutsideError: the port is taken, or optuna-dashboard is not installed.
    """
    if options.optuna:
        return serve_optuna(options.storage, options.host, options.port)
    return serve_mlflow(options.tracking_uri, options.host, options.port)


def serve_mlflow(tracking_uri: str | None, host: str, port: int) -> int:
    """Runs MLflow's server until it is stopped; returns its exit code.

    Args:
        tracking_uri: the tracking store; None for the default.
        host: address to listen on.
        port: TCP port to listen on.

    Raises:
        InputError: no such store, or a server's address was given.
        OutsideError: the port is taken.
    """
    uri = resolve_uri(tracking_uri)
    if uri.startswith(("http:", "https:")):
        raise InputError(f"--tracking-uri: {uri!r} is a server with a web interface of its own; allowed: a database")
    database = sqlite_file(uri)
    if database is not None and not database.is_file():
        raise InputError(f"--tracking-uri: {database} is not there; allowed: a store with runs (ablate grid makes one)")
    _check_address(host, port, "MLflow")
    artifacts = (STATE_DIR / "artifacts").resolve().as_uri()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--default-artifact-root",
        artifacts,
    ]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # one worker without job execution: 430 MB and seconds to start, instead of 2.3 GB and 15 processes
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return _run(command, environment, f"MLflow on http://{host}:{port} (Ctrl-C ends it)")


def serve_optuna(storage: str | None, host: str, port: int) -> int:
    """Runs optuna-dashboard on the storage of the tunings until it is stopped; returns its exit code.

    Args:
        storage: URL of Optuna's storage; None for the default.
        host: address to listen on.
        port: TCP port to listen on.

    Raises:
        InputError: no such storage.
        OutsideError: optuna-dashboard is not installed, or the port is taken.
    """
    from pipeline.tuning import storage_url

    url = storage_url.resolve(storage)
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        raise InputError(f"--storage: {url} is not there; allowed: a storage with studies (ablate tune makes one)")
    if find_spec("optuna_dashboard") is None:
        raise OutsideError('ui --optuna: optuna-dashboard is not installed; pip install "ablate[dashboard]"')
    _check_address(host, port, "optuna-dashboard")
    # the address of the storage may hold a password: not on a command line, which everybody can read
    start = (
        "import os; from optuna_dashboard import run_server; "
        "run_server(os.environ.pop('ABLATE_UI_STORAGE'), host=os.environ.pop('ABLATE_UI_HOST'), "
        "port=int(os.environ.pop('ABLATE_UI_PORT')))"
    )
    environment = {"ABLATE_UI_STORAGE": url, "ABLATE_UI_HOST": host, "ABLATE_UI_PORT": str(port)}
    command = [sys.executable, "-c", start]
    return _run(command, environment, f"optuna-dashboard on http://{host}:{port} (Ctrl-C ends it)")


def _run(command: list[str], environment: dict[str, str], greeting: str) -> int:
    print(greeting, flush=True)
    process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    _forward(process)
    return 0 if process.wait() in (0, -signal.SIGTERM, -signal.SIGINT) else 3


def _check_address(host: str, port: int, name: str) -> None:
    if not _loopback(host):
        print(f"warning: {host} can be reached from other machines, and {name} asks for no password", file=sys.stderr)
    _check_free(host, port)


def _forward(process: subprocess.Popen[bytes]) -> None:
    """The server and its workers are a process group of their own; it ends with this process."""

    def stop(number: int, _frame: Any) -> None:
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        del number

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OutsideError(
                f"--host {host} --port {port}: cannot listen ({error.strerror}); choose another"
            ) from None
