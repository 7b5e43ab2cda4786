"""Addresses are shown and kept without their secrets."""

from __future__ import annotations

import pytest

from pipeline.shown import redacted
from pipeline.tracking.credentials import without_credentials


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("http://user:pass@host:5000/path?token=x", "http://host:5000/path"),
        ("postgresql+psycopg2://u:p%40ss@db/ablate", "postgresql+psycopg2://db/ablate"),
        ("mysql://u:p@ss@db:1/a", "mysql://db:1/a"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_a_uri_is_kept_without_its_secrets(uri: str, stored: str) -> None:
    assert without_credentials(uri) == stored
    assert "p@ss" not in redacted(f"cannot reach {uri}: refused")
    assert "user:pass" not in redacted(f"cannot reach {uri}: refused")
