"""MLflow's application as it is served: without the ways to put files."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.errors import OutsideError
from pipeline.tracking.mlflow_server import serve_store, without_uploads


@pytest.mark.parametrize(
    ("scope", "passed"),
    [
        ({"type": "http", "path": "/ajax-api/2.0/mlflow/upload-artifact"}, False),
        ({"type": "http", "path": "//ajax-api/2.0/mlflow/upload-artifact/"}, False),
        ({"type": "http", "path": "/api/2.0/mlflow/runs/search"}, True),
        ({"type": "lifespan"}, True),
    ],
)
def test_uploads_do_not_reach_it(scope: dict[str, Any], passed: bool) -> None:
    reached: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(without_uploads(app)(scope, None, send))
    assert bool(reached) is passed
    assert [message.get("status", 403) for message in sent] == ([] if passed else [403, 403])


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {**__import__("os").environ})
    (tmp_path / "no.db").write_text("no database, but longer than a header of one would be" * 9)
    with pytest.raises(OutsideError, match="MLflow cannot open the store"):
        serve_store(f"sqlite:///{tmp_path}/no.db", "file:///nowhere", "127.0.0.1", 1)
