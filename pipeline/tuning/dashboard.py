"""optuna-dashboard on the storage of the tunings, for this machine's browsers alone."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from pipeline.errors import OutsideError, first_line

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        """Says nothing of each request."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request.

    In the server's own thread a connection that says nothing (browsers open some in advance) keeps all others waiting,
    and a signal's exception in the midst of a request is taken for that request's failure, and goes unheard.
    """

    daemon_threads = True


class _ServerV6(_Server):
    address_family = socket.AF_INET6


def serve_dashboard(url: str, host: str, port: int) -> None:
    """Serves until `KeyboardInterrupt`, in this process, as optuna-dashboard's own server does.

    Args:
        url: Optuna's storage.
        host: address to listen on.
        port: TCP port to listen on.

    Raises:
        OutsideError: the storage cannot be opened.
    """
    import optuna_dashboard

    try:
        app = optuna_dashboard.wsgi(url)
    except Exception as error:  # each kind of database has its own
        raise OutsideError(f"ui: Optuna cannot open the storage: {first_line(error)}") from None
    server = _ServerV6 if ":" in host else _Server
    with make_server(host, port, checking_host(app, host), server_class=server, handler_class=_Quiet) as running:
        running.serve_forever()


def checking_host(app: _App, listens_on: str) -> _App:
    """Refuses what a page from elsewhere asks: one whose name has been made to mean this machine, or that posts to it.

    Args:
        app: a WSGI application.
        listens_on: where it is served.
    """

    def checked(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if not is_ours(host, listens_on) or (origin is not None and urlsplit(origin).netloc != host):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"optuna-dashboard is for this machine's own names: localhost, 127.0.0.1, [::1]\n"]
        return app(environ, start_response)

    return checked


def is_ours(header: str, listens_on: str) -> bool:
    """Whether a `Host` header names this machine.

    An address in figures cannot be made to mean another machine, a name can. Who listens beyond this machine has been
    warned, and is reached under its addresses and its own name.

    Args:
        header: of the request.
        listens_on: where it is served.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    local = _is_loopback(listens_on)
    try:
        return ipaddress.ip_address(name).is_loopback or not local
    except ValueError:
        own = {listens_on.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return name == "localhost" or (not local and name in own)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
