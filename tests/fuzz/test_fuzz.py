"""A while of looking for inputs that break something (`ABLATE_FUZZ_SECONDS` for each target).

`python -m tests.fuzz` looks for longer.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS, fuzz

SECONDS = float(os.environ.get("ABLATE_FUZZ_SECONDS", "3"))


@pytest.mark.slow
@pytest.mark.timeout(1200 + 4 * SECONDS)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="Atheris is there for x86_64 alone")
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_new_is_found(target: str, tmp_path: Path) -> None:
    found = fuzz(target, tmp_path, seconds=SECONDS)
    print(f"{target}: {found.inputs} inputs in {found.seconds:.0f} s")
    assert not found.faults, found.faults
    assert found.inputs > 0
