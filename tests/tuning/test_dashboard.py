"""Whose requests the dashboard answers."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pipeline.errors import OutsideError
from pipeline.tuning.dashboard import checking_host, is_ours, serve_dashboard


@pytest.mark.parametrize(
    "header", ["localhost", "localhost:80", "LOCALHOST:80", "127.0.0.1:1", "127.9.9.9", "[::1]:80"]
)
def test_loopback_has_these_names(header: str) -> None:
    assert is_ours(header, "127.0.0.1") and is_ours(header, "localhost") and is_ours(header, "0.0.0.0")


@pytest.mark.parametrize(
    "header", ["", "example.org", "localhost.example.org", "127.0.0.1.nip.io:80", "a@b", "[::1", "10.0.0.1"]
)
def test_loopback_has_no_other_names(header: str) -> None:
    assert not is_ours(header, "127.0.0.1") and not is_ours(header, "localhost") and not is_ours(header, "::1")


def test_who_listens_to_others_is_reached_under_its_addresses_and_its_name() -> None:
    assert is_ours("10.0.0.1:80", "0.0.0.0") and is_ours(socket.gethostname(), "0.0.0.0")
    assert is_ours("lab:80", "lab") and not is_ours("example.org", "0.0.0.0")


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        ({"HTTP_HOST": "localhost:80"}, True),
        ({"HTTP_HOST": "localhost:80", "HTTP_ORIGIN": "http://localhost:80"}, True),
        ({"HTTP_HOST": "localhost:80", "HTTP_ORIGIN": "http://localhost:81"}, False),
        ({"HTTP_HOST": "localhost:80", "HTTP_ORIGIN": "null"}, False),
        ({"HTTP_HOST": "example.org"}, False),
        ({}, False),
    ],
)
def test_a_page_from_elsewhere_does_not_get_through(headers: dict[str, str], passed: bool) -> None:
    statuses: list[str] = []

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"studies"]

    checking_host(app, "127.0.0.1")(headers, lambda status, _headers: statuses.append(status))
    assert statuses == ["200 OK" if passed else "403 Forbidden"]


def test_a_storage_that_cannot_be_opened_is_one_line(tmp_path: Any) -> None:
    (tmp_path / "no.db").write_text("no database, but longer than a header of one would be" * 9)
    with pytest.raises(OutsideError, match="Optuna cannot open the storage"):
        serve_dashboard(f"sqlite:///{tmp_path}/no.db", "127.0.0.1", 1)
