"""Addresses are shown and kept without their secrets."""

from __future__ import annotations

import pytest

from pipeline.shown import redacted
from pipeline.tracking.credentials import without_account, without_credentials


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("http://user:pass@host:5000/path?token=x", "http://host:5000/path"),
        ("postgresql+psycopg2://u:p%40ss@db/ablate", "postgresql+psycopg2://db/ablate"),
        ("mysql://u:p@ss@db:1/a", "mysql://db:1/a"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("sqlite:////tmp/u@x/a.db", "sqlite:////tmp/u@x/a.db"),
        ("http://host:5000/team@org/x", "http://host:5000/team@org/x"),
        ("http://host/x?mail=a@b", "http://host/x"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("postgresql://host:5432/db?options=a", "postgresql://host:5432/db"),
        ("postgresql:///db?host=/tmp", "postgresql:///db?host=/tmp"),
        ("databricks://profile", "databricks://profile"),
        ("databricks", "databricks"),
    ],
)
def test_a_uri_is_kept_without_its_secrets(uri: str, stored: str) -> None:
    assert without_credentials(uri) == stored
    assert "p@ss" not in redacted(f"cannot reach {uri}: refused")
    assert "user:pass" not in redacted(f"cannot reach {uri}: refused")


@pytest.mark.parametrize("password", ["p/w", "p#w", "p?w", "p@w", "p@/w#?x", "12/34", "a:b@c", "p%2Fw", "[p"])
@pytest.mark.parametrize(
    ("address", "stored"),
    [
        ("postgresql+psycopg2://user:{}@db.host:5432/mlflow?sslmode=x", "postgresql+psycopg2://db.host:5432/mlflow"),
        ("mysql://user:{}@db/mlflow", "mysql://db/mlflow"),
        ("http://user:{}@host:5000/x", "http://host:5000/x"),
    ],
)
def test_whatever_a_password_is_made_of(address: str, stored: str, password: str) -> None:
    if address.startswith("http") and password == "12/34":
        pytest.skip("http://user:12/34@host is the host `user`: no client reaches another one with it")
    assert without_credentials(address.format(password)) == stored


def test_of_an_address_that_is_none_nothing_is_told() -> None:
    assert "hunter2" not in without_credentials("http://u:hunter2@[::1/x")
    assert without_account("u:hunter2@head:6379") == "head:6379" == without_account("head:6379")
    assert without_account("redis://:hunter2@head:6379") == "redis://head:6379"
