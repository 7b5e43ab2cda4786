"""A real `mlflow server` on loopback, and a proxy in front of it that can misbehave."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.ablate import environment


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One MLflow server on SQLite or another database, in a process group of its own.

    Args:
        folder: for its database and artifacts.
        backend: URI of another database than its own SQLite file.
    """

    def __init__(self, folder: Path, backend: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.database = folder / "server.db"
        self.backend = backend or f"sqlite:///{self.database}"
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        words = ["server", "--backend-store-uri", self.backend, "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--workers", "1", "--artifacts-destination", str(self.folder / "artifacts")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            cwd=self.folder,
            env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        """Ends it at once, as a crash would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Proxy:
    """Forwards requests to a server, as well or badly as its `mode` says.

    Modes are healthy, down (no answer), flaky (every third request is answered with 500, half of these after the server
    has done what was asked).

    Args:
        target: port of the server.
    """

    def __init__(self, target: int) -> None:
        self.mode = "healthy"
        self.refused = 0
        self._count = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_words: Any) -> None:
                pass

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                bad = proxy.bad()
                if bad == "drop":
                    self.close_connection = True
                    return
                status, headers, answer = 500, [("Content-Type", "text/plain")], b"injected"
                if bad != "before":
                    server = http.client.HTTPConnection("127.0.0.1", target, timeout=30)
                    given = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                    server.request(self.command, self.path, body or None, given)
                    response = server.getresponse()
                    done = response.read()
                    if not bad:
                        kept = ("transfer-encoding", "connection", "content-length", "server", "date")
                        status, answer = response.status, done
                        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in kept]
                    server.close()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 - as the library has them

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def bad(self) -> str:
        """What to do wrong with the next request: nothing, `drop`, `before` or `after` the server has done it."""
        with self._lock:
            if self.mode == "healthy":
                return ""
            if self.mode == "down":
                self.refused += 1
                return "drop"
            self._count += 1
            if self._count % 3:
                return ""
            self.refused += 1
            return "before" if self._count % 2 else "after"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
