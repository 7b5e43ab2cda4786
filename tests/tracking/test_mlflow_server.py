"""MLflow's application as it is served: without the ways to put files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, OutsideError
from pipeline.tracking.mlflow_server import opening_with, prepare_views, serve_store, without_uploads
from pipeline.tracking.mlflow_view import VIEW_TAG, page_of, view_of


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


PAGE = [(b"content-type", b"text/html"), (b"content-length", b"26"), (b"etag", b"of the file")]


def asked(path: str, status: int = 200) -> tuple[list[tuple[bytes, bytes]], list[Any]]:
    """Headers that the application gets, and what it seems to send."""
    got: list[tuple[bytes, bytes]] = []
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        got.extend(scope["headers"])
        await send({"type": "http.response.start", "status": status, "headers": list(PAGE)})
        await send({"type": "http.response.body", "body": b"<html><head>", "more_body": True})
        await send({"type": "http.response.body", "body": b"</head></html>"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"if-none-match", b"of the file"), (b"accept-encoding", b"gzip"), (b"host", b"here")]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(opening_with(app, "<script>x</script>")(scope, None, send))
    return got, sent


def test_the_page_at_the_root_gets_the_script_and_no_other_does() -> None:
    got, (head, body) = asked("/")
    assert body["body"] == b"<html><head><script>x</script></head></html>"
    assert dict(head["headers"]) == {b"content-type": b"text/html", b"content-length": str(len(body["body"])).encode()}
    assert got == [(b"host", b"here")], "a page that the browser has kept is sent again"
    got, messages = asked("/static-files/main.js")
    assert len(messages) == 3 and messages[0]["headers"] == PAGE and len(got) == 3
    assert b"script" not in asked("/", status=403)[1][-1]["body"]


def test_studies_get_their_views_and_the_youngest_is_shown(
    migrated_store: Callable[[Path], str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = migrated_store(tmp_path / "mlflow.db")
    client, store = MlflowClient(uri), SqlAlchemyStore(uri, tmp_path.as_uri())
    assert prepare_views(store, None) is None
    ids = {name: client.create_experiment(name, tags={"ablate.store": name}) for name in ("first", "turns", "last")}
    ids["theirs"] = client.create_experiment("theirs")
    for time, (name, kind) in enumerate((("last", "run"), ("turns", "turns"), ("first", "run"), ("theirs", "run"))):
        client.create_run(ids[name], start_time=1000 - time if name != "theirs" else 5000, tags={"ablate.kind": kind})
    assert prepare_views(store, None) == ("last", page_of(ids["last"]))
    assert prepare_views(store, "turns") == ("turns", page_of(ids["turns"]))
    views = {name: client.get_experiment(number).tags.get(VIEW_TAG) for name, number in ids.items()}
    assert views == {"first": view_of("run"), "turns": view_of("turns"), "last": view_of("run"), "theirs": None}
    with pytest.raises(InputError, match=r"study 'nosuch': not in the tracking store; allowed: .*first"):
        prepare_views(store, "nosuch")
