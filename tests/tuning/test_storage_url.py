"""Addresses of Optuna storages and names of studies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.tuning.storage_url import resolve, study_name


def test_a_relative_file_is_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(None) == f"sqlite:///{tmp_path}/mlruns/optuna.db"
    assert resolve("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert resolve("postgresql+psycopg2://u:p@host/db") == "postgresql+psycopg2://u:p@host/db"


@pytest.mark.parametrize("url", ["a.db", "sqlite://", "sqlite:///:memory:", "http://host", "redis://u:secret@host"])
def test_what_no_shared_study_can_be_kept_in_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="--storage") as caught:
        resolve(url)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_name_is_fit_for_a_file_whatever_is_tuned(model: str, dataset: str) -> None:
    name = study_name(model, dataset, "throughput", "0123456789abcdef")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name) and len(name) < 100
    assert name.endswith("throughput-01234567") and not name.startswith("-")
