"""A finished grid that the tests of this folder read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import ablate_in_process
from tests.support.commands import SMALL, TARGET


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished grid of two cells, timed to a target, and what the grid printed with --json."""
    place = tmp_path_factory.mktemp("grid")
    found = ablate_in_process(
        "grid", *SMALL, "--models", "test_resnet", "--datasets", "digits", "--techniques", "ga",
        "--target-accuracy", TARGET, "--json",
        cwd=place, data_dir=digits_dir,
    )  # fmt: skip
    assert found.code == 0, found.err
    return place, json.loads(found.out)
