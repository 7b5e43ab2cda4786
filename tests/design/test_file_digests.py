"""Digests of files, and for how long one is remembered."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from pipeline.design.file_digests import UNSETTLED_NS, digests, recall, remember

DIGEST = "0123456789abcdef" * 2
OLD = time.time_ns() - 2 * UNSETTLED_NS


def test_digests_are_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    assert digests(tmp_path, ["c", "a"]) == [hashlib.sha256(text).hexdigest() for text in (b"c", b"a")]
    with pytest.raises(OSError, match="missing"):
        digests(tmp_path, ["a", "missing"])


def test_what_is_remembered_is_recalled_by_its_key(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    assert recall(cache, "key") is None
    remember(cache, "key", DIGEST, OLD)
    assert recall(cache, "key") == DIGEST and recall(cache, "other") is None
    assert [path.name for path in cache.iterdir()] == ["key.json"], "nothing is left beside it"


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path) -> None:
    remember(tmp_path, "key", DIGEST, time.time_ns())
    assert recall(tmp_path, "key") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": "key"}', '{"key": "key", "digest": 3}', '{"digest": "x"}'])
def test_a_damaged_memory_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(text)
    assert recall(tmp_path, "key") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    remember(tmp_path / "cache", "key", DIGEST, OLD)
    assert recall(tmp_path / "cache", "key") is None
