"""MLflow's web interface on a store, served in this process: nothing outlives it, no command line tells the address."""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipeline.design.names import KIND_TAG, STORE_TAG
from pipeline.errors import InputError, OutsideError, first_line
from pipeline.tracking.mlflow_view import VIEW_TAG, opening_script, page_of, view_of
from pipeline.tracking.study_data import unknown_study

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_MOST_STUDIES = 1000
_OF_FILE = (b"content-length", b"etag", b"last-modified", b"accept-ranges")  # that do not hold for a changed page
_GRACE_SECONDS = 5  # that open connections get at the end


def serve_store(
    uri: str, artifacts: str, host: str, port: int, study: str | None = None, tell: Callable[[str, str], None] = print
) -> None:
    """Serves until a signal ends it; the page at its root leads to a study's runs.

    `mlflow server` would start uvicorn as a child: with the working folder on its import path, an address that
    everybody can read in the list of processes, and a life of its own after this one's end. This does what that does.

    Args:
        uri: the store, a database.
        artifacts: address of the folder for artifacts of new experiments.
        host: address to listen on.
        port: TCP port to listen on.
        study: whose runs are shown first; None for the one with the youngest run.
        tell: is given that study and the part of its address behind the host, empty where there is none.

    Raises:
        InputError: the store has no such study.
        OutsideError: MLflow cannot open the store.
    """
    os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    import uvicorn
    from mlflow import environment_variables
    from mlflow.server import constants

    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: uri,
            constants.REGISTRY_STORE_URI_ENV_VAR: uri,
            constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
            # marks of a server: code that is stored in the database is never run
            environment_variables._MLFLOW_SERVER_BOOT_ID.name: uuid.uuid4().hex,
            environment_variables._MLFLOW_IN_JOB_EXECUTOR.name: "false",
            environment_variables._MLFLOW_SGI_NAME.name: "uvicorn",
        }
    )
    os.environ.pop(constants.SERVE_ARTIFACTS_ENV_VAR, None)  # artifacts are read where they are, and not taken
    try:
        with warnings.catch_warnings(action="ignore"):  # of what MLflow uses
            from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import _get_tracking_store, initialize_backend_stores

        initialize_backend_stores(uri, uri, artifacts)
        found = prepare_views(_get_tracking_store(), study)
    except InputError:
        raise
    except Exception as error:  # each kind of database has its own
        raise OutsideError(f"ui: MLflow cannot open the store: {first_line(error)}") from None
    served = without_uploads(app)
    tell(*(found or ("", "")))
    if found is not None:
        served = opening_with(served, opening_script(found[1]))
    uvicorn.run(served, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)


def without_uploads(app: _App) -> _App:
    """Refuses files: MLflow takes them from anybody who reaches the port, whether it serves artifacts or not.

    Args:
        app: MLflow's ASGI application.
    """

    async def guarded(scope: _Message, receive: _Receive, send: _Send) -> None:
        if "upload-artifact" in scope.get("path", ""):
            head = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            await send(head)
            await send({"type": "http.response.body", "body": b"ablate ui takes no files\n"})
            return
        await app(scope, receive, send)

    return guarded


def prepare_views(store: Any, study: str | None) -> tuple[str, str] | None:
    """Has each study's runs shown with what matters; returns the one to be shown first, and its page.

    Args:
        store: MLflow's own, of its server.
        study: see `serve_store`.

    Raises:
        InputError: no such study.
    """
    from mlflow.entities import ViewType

    experiments = {each.name: each for each in store.search_experiments(max_results=_MOST_STUDIES)}
    ours = [each for each in experiments.values() if STORE_TAG in each.tags]
    if study is not None and study not in experiments:
        raise unknown_study(study, [each.name for each in ours])
    for each in ours:
        _prepare_view(store, each)
    if study is None:
        ids = [each.experiment_id for each in ours]
        youngest = store.search_runs(ids, "", ViewType.ACTIVE_ONLY, 1, ["attributes.start_time DESC"]) if ids else []
        names = {each.experiment_id: each.name for each in ours}
        study = next((names[run.info.experiment_id] for run in youngest), None)
    return None if study is None else (study, page_of(experiments[study].experiment_id))


def _prepare_view(store: Any, experiment: Any) -> None:
    from mlflow.entities import ExperimentTag, ViewType

    where = f"tags.`{KIND_TAG}` = 'run'"
    cells = store.search_runs([experiment.experiment_id], where, ViewType.ACTIVE_ONLY, 1)
    view = view_of("run" if cells else "turns")
    if experiment.tags.get(VIEW_TAG) != view:
        with contextlib.suppress(Exception):  # a store that cannot be written is shown as MLflow would
            store.set_experiment_tag(experiment.experiment_id, ExperimentTag(VIEW_TAG, view))


def opening_with(app: _App, script: str) -> _App:
    """Puts a script into the page at the root.

    Args:
        app: MLflow's ASGI application.
        script: an element for the page's head.
    """

    async def served(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http" or scope.get("path") != "/":
            await app(scope, receive, send)
            return
        # a page that the browser has kept would be one without the script, or of another store
        headers = [(name, value) for name, value in scope["headers"] if not name.startswith((b"if-", b"accept-enc"))]
        parts: list[bytes] = []
        head: _Message = {}

        async def changed(message: _Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(parts)
            if head["status"] == 200:
                body = body.replace(b"<head>", b"<head>" + script.encode(), 1)
            kept = [(name, value) for name, value in head["headers"] if name.lower() not in _OF_FILE]
            head["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
            await send(head)
            await send({"type": "http.response.body", "body": body})

        await app({**scope, "headers": headers}, receive, changed)

    return served
