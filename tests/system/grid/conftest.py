"""One small but whole grid (48 cells, quickstart's design on few images), shared by the tests of this folder."""

from __future__ import annotations

import os

import pytest

from tests.support.grids import SMALL, FinishedGrid


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> FinishedGrid:
    if "PYTEST_XDIST_WORKER" in os.environ:  # their base folders have one parent
        (tmp_path_factory.getbasetemp().parent / "whole-grid").mkdir()  # a second time: the tests are not grouped
    folder = tmp_path_factory.mktemp("grid")
    done = FinishedGrid(folder, "").call("grid", "--study", "quickstart", "--device", "cpu", *SMALL)
    assert done.code == 0, done.out + done.err
    return FinishedGrid(folder, done.out)
