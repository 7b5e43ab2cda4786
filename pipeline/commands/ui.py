"""`ablate ui`: MLflow's web interface on the store that `ablate` writes, or Optuna's on the storage of the tunings.

A bare `mlflow ui` opens another file. Both are served in this process: they end when it does, however it does.
"""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import sys
from importlib.util import find_spec
from typing import Any

from pipeline.commands.command_options import UiOptions
from pipeline.commands.output import experiment_of
from pipeline.errors import InputError, OutsideError
from pipeline.execution import interrupt
from pipeline.import_path import DISTRIBUTION
from pipeline.paths import STATE_DIR
from pipeline.shown import printable
from pipeline.tracking import mlflow_sqlite
from pipeline.tracking.mlflow_server import serve_store
from pipeline.tracking.study_data import unknown_study
from pipeline.tracking.uri import resolve_uri, sqlite_file


def run_ui(options: UiOptions) -> int:
    """Serves one of the two until it is stopped.

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
    return serve_mlflow(options.tracking_uri, options.host, options.port, options.study)


def serve_mlflow(tracking_uri: str | None, host: str, port: int, study: str | None = None) -> int:
    """Serves MLflow's interface until it is stopped; returns the exit code.

    Args:
        tracking_uri: the tracking store; None for the default.
        host: address to listen on.
        port: TCP port to listen on.
        study: whose runs are shown first; None for the one with the youngest run.

    Raises:
        InputError: no such store or study, or a server's address was given.
        OutsideError: the port is taken.
    """
    uri = resolve_uri(tracking_uri)
    if uri.startswith(("http:", "https:")):
        raise InputError(f"--tracking-uri: {uri!r} is a server with a web interface of its own; allowed: a database")
    database = sqlite_file(uri)
    if database is not None and not database.is_file():
        raise InputError(f"--tracking-uri: {database} is not there; allowed: a store with runs (ablate grid makes one)")
    wanted = None if study is None else experiment_of(study)
    readers = mlflow_sqlite.open_readers(database)
    if wanted is not None and readers is not None and wanted not in [reader.experiment for reader in readers]:
        raise unknown_study(wanted, [reader.experiment for reader in readers if reader.count_runs()])
    _check_address(host, port, "MLflow")
    for number in interrupt.taken():
        # the server takes these two as soon as it serves, and hands them on when it has ended
        theirs = number in (signal.SIGINT, signal.SIGTERM)
        signal.signal(number, _interrupt if theirs else _terminate)

    def tell(name: str, page: str) -> None:
        if name:
            print(f"study {printable(name)}: {_address(host, port)}/{page}", flush=True)
        print("ready; charts are behind the second button above the list", flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        _greet("MLflow", host, port)
        print("starting; MLflow takes some seconds to import", flush=True)
        serve_store(uri, (STATE_DIR / "artifacts").resolve().as_uri(), host, port, wanted, tell)
    return 0


def serve_optuna(storage: str | None, host: str, port: int) -> int:
    """Serves optuna-dashboard on the storage of the tunings until it is stopped; returns the exit code.

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
        raise OutsideError(f"ui --optuna: optuna-dashboard is not installed; pip install '{DISTRIBUTION}[dashboard]'")
    _check_address(host, port, "optuna-dashboard")
    _greet("optuna-dashboard", host, port)
    from pipeline.tuning.dashboard import serve_dashboard

    for number in interrupt.taken():
        signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        serve_dashboard(url, host, port)
    return 0


def _terminate(_number: int, _frame: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _greet(name: str, host: str, port: int) -> None:
    print(f"{name} on {_address(host, port)} (Ctrl-C ends it)", flush=True)


def _address(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _check_address(host: str, port: int, name: str) -> None:
    if not _loopback(host):
        print(f"warning: {host} can be reached from other machines, and {name} asks for no password", file=sys.stderr)
    _check_free(host, port)


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
