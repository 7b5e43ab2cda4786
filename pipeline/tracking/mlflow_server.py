"""MLflow's web interface on a store, served in this process: nothing outlives it, no command line tells the address."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipeline.errors import OutsideError, first_line

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_GRACE_SECONDS = 5  # that open connections get at the end


def serve_store(uri: str, artifacts: str, host: str, port: int) -> None:
    """Serves until a signal ends it.

    `mlflow server` would start uvicorn as a child: with the working folder on its import path, an address that
    everybody can read in the list of processes, and a life of its own after this one's end. This does what that does.

    Args:
        uri: the store, a database.
        artifacts: address of the folder for artifacts of new experiments.
        host: address to listen on.
        port: TCP port to listen on.

    Raises:
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
        from mlflow.server.handlers import initialize_backend_stores

        initialize_backend_stores(uri, uri, artifacts)
    except Exception as error:  # each kind of database has its own
        raise OutsideError(f"ui: MLflow cannot open the store: {first_line(error)}") from None
    uvicorn.run(
        without_uploads(app), host=host, port=port, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS
    )


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
