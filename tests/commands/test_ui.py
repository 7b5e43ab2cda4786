"""`ablate ui`: the web interfaces."""

from __future__ import annotations

import contextlib
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.tracking.mlflow_store import MlflowStore
from tests.support.ablate import start_ablate
from tests.support.commands import assert_refused
from tests.support.processes import until
from tests.support.servers import free_port


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ui", "--port", "0"), ("--port", "0", "1<=x<=65535")),
        (("ui",), ("--tracking-uri", "mlruns/mlflow.db is not there")),
        (("ui", "--tracking-uri", "https://host"), ("'https://host'", "a web interface of its own")),
        (("ui", "--optuna"), ("--storage", "optuna.db is not there")),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate(*arguments), words, tmp_path)


def test_a_port_that_is_taken_is_told_before_a_server_starts(
    ablate: Any, migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    migrated_store(tmp_path / "mlruns" / "mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = ablate("ui", "--port", str(port))
    assert found.code == 3 and found.out == ""
    assert f"--host 127.0.0.1 --port {port}" in found.line and "choose another" in found.line


def test_an_unknown_study_is_told_before_a_server_starts(
    ablate: Any, migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    migrated_store(tmp_path / "mlruns" / "mlflow.db")
    found = ablate("ui", "nosuch")
    assert (found.code, found.out) == (2, "")
    assert "study 'nosuch': not in the tracking store; allowed: none; ablate grid makes one" in found.line


@pytest.mark.parametrize("host", ["0.0.0.0", "203.0.113.7"])
def test_an_address_that_others_reach_is_warned_of(
    host: str, ablate: Any, migrated_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = migrated_store(tmp_path / "mlruns" / "mlflow.db")
    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr("pipeline.commands.ui._check_free", lambda *_arguments: None)
    monkeypatch.setattr("pipeline.commands.ui.signal.signal", lambda *_arguments: None)
    monkeypatch.setattr("pipeline.commands.ui.serve_store", lambda *given: served.append(given))
    found = ablate("ui", "--host", host, "--port", "5999")
    assert found.code == 0 and f"warning: {host} can be reached from other machines" in found.line
    assert [given[:5] for given in served] == [(uri, (tmp_path / "mlruns" / "artifacts").as_uri(), host, 5999, None)]


def answer(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers, data=b"{}" if "Origin" in headers else None)
    try:
        with urllib.request.urlopen(request, timeout=10) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return answer(url)[0] == 200
    return False


@pytest.mark.slow
@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_mlflow_is_served_by_the_command_alone(
    last: int, migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    """However it ends, nothing is left on the port; while it runs it takes no file, and no name from elsewhere."""
    migrated_store(tmp_path / "mlruns" / "mlflow.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start_ablate("ui", "--port", str(port), cwd=tmp_path)
    try:
        until(lambda: answers(f"{url}/health"), 60, "the server's start")
        upload = f"{url}/ajax-api/2.0/mlflow/upload-artifact?run_uuid=1&path=a"
        assert answer(upload, Origin=url)[0] == 403
        assert answer(f"{url}/api/2.0/mlflow-artifacts/artifacts?path=a")[0] == 503
        assert answer(f"{url}/", Host="rebound.example")[0] == 403
        process.send_signal(last)
        process.wait(30)
    finally:
        process.kill()
    assert not answers(f"{url}/health")
    out, err = process.communicate()
    assert process.returncode == (-signal.SIGKILL if last == signal.SIGKILL else 0), err
    assert url in out and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("when", ["starting", "ready"])
def test_who_changes_his_mind_is_heard_at_once(
    when: str, migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    """Before the server takes signals itself, too: while MLflow is imported, and in the instant before it serves."""
    store = MlflowStore(migrated_store(tmp_path / "mlruns" / "mlflow.db"), "mine", tmp_path)
    store.connect()
    process = start_ablate("ui", "--port", str(free_port()), cwd=tmp_path)
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(when):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_dashboard_is_for_this_machines_names_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/mlruns/optuna.db"
    (tmp_path / "mlruns").mkdir()
    optuna.create_study(storage=url, study_name="mine")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = start_ablate("ui", "--optuna", "--port", str(port), cwd=tmp_path)
    try:
        until(lambda: answers(f"{address}/api/studies"), 60, "the server's start")
        assert answer(f"{address}/api/studies", Host=f"localhost:{port}")[0] == 200
        assert answer(f"{address}/api/studies", Host="rebound.example")[0] == 403
        study = {"Content-Type": "application/json", "Origin": "http://rebound.example"}
        assert answer(f"{address}/api/studies", **study)[0] == 403
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert "Traceback" not in process.communicate()[1]
    assert optuna.get_all_study_names(url) == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_dashboard_ends_and_answers_in_the_midst_of_a_request(last: int, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    optuna.create_study(storage=f"sqlite:///{tmp_path}/mlruns/optuna.db", study_name="mine")
    port = free_port()
    process = start_ablate("ui", "--optuna", "--port", str(port), cwd=tmp_path)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api/studies"), 60, "the server's start")
        # a browser opens connections in advance, and a form that is being sent keeps the application reading
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as half:
            head = f"POST /api/studies HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            half.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
            assert answers(f"http://127.0.0.1:{port}/api/studies")
            process.send_signal(last)
            assert process.wait(30) == 0
    finally:
        process.kill()
    assert "Traceback" not in process.communicate()[1]
