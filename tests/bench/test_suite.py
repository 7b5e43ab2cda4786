"""The parts of a whole run of `ablate bench`."""

from __future__ import annotations

import pytest

from pipeline.bench.suite import PARTS, parse_parts
from pipeline.errors import InputError


def test_parts_are_checked_and_ordered() -> None:
    assert parse_parts(None) == PARTS
    assert parse_parts("grid_overhead, over_bare") == ("over_bare", "grid_overhead")
    with pytest.raises(InputError, match="--only: 'over_keras' is not allowed; allowed: over_bare"):
        parse_parts("over_bare,over_keras")
