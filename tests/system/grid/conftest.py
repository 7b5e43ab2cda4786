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
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ABLATE_", "MLFLOW_"))}
    environment = {**kept, "ABLATE_DATA_DIR": str(folder / "data"), "OMP_WAIT_POLICY": "passive"}
    made = FinishedGrid(folder, environment, "")
    done = made.ablate("grid", "--study", "quickstart", "--device", "cpu", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedGrid(folder, environment, done.stdout)
