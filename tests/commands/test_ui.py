"""`ablate ui`: the web interfaces."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import assert_refused


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


@pytest.mark.parametrize("host", ["0.0.0.0", "203.0.113.7"])
def test_an_address_that_others_reach_is_warned_of(
    host: str, ablate: Any, migrated_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated_store(tmp_path / "mlruns" / "mlflow.db")
    started: list[list[str]] = []
    monkeypatch.setattr("pipeline.commands.ui._check_free", lambda *_arguments: None)
    monkeypatch.setattr("pipeline.commands.ui._run", lambda command, *_more: started.append(command) or 0)
    found = ablate("ui", "--host", host, "--port", "5999")
    assert found.code == 0 and f"warning: {host} can be reached from other machines" in found.line
    (command,) = started
    assert command[command.index("--host") + 1] == host and command[command.index("--port") + 1] == "5999"
