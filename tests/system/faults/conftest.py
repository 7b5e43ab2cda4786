"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Workspace, until, working_in


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A folder to run in; no process may be left in it."""
    place = Workspace(tmp_path / "work")
    yield place
    until(lambda: not working_in(place.folder), 10, "the end of all processes")
