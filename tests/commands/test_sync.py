"""`ablate sync`: delivery of journals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import ablate_in_process
from tests.support.commands import assert_refused, store_of


def test_sync_after_delivery_changes_nothing(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    before = store_of(place)
    found = ablate_in_process("sync", "--json", cwd=place, data_dir=digits_dir)
    assert found.json()["entries"] == 0
    assert store_of(place) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sync", "--tracking-uri", "ftp://host"), ("--tracking-uri", "'ftp://host'", "sqlite:///FILE")),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate(*arguments), words, tmp_path)


def test_in_words(finished: tuple[Path, dict[str, Any]]) -> None:
    found = ablate_in_process("sync", cwd=finished[0])
    assert (found.code, found.out) == (0, "0 journal(s) delivered, 0 entries\n")
