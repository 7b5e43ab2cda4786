"""The cost of a whole grid call."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bench.grid_overhead import GridCost, grid_cost
from pipeline.errors import OutsideError

STUDY = """
name: tiny
models: {test_resnet: {}}
datasets: [digits]
techniques: [ga]
recipe: {image_size: 16, epochs: 1, max_train_samples: 96, max_test_samples: 50, num_threads: 1}
"""


def test_the_overhead_is_wall_time_over_the_runs_own() -> None:
    assert GridCost(wall_seconds=11.0, run_seconds=10.0, setup_seconds=3.0, runs=4, memory_mib=80.0).ratio == 1.1


@pytest.mark.slow
def test_a_grid_is_measured_from_outside(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    cost = grid_cost(str(tmp_path / "tiny.yaml"), "cpu", tmp_path)
    assert cost.runs == 2 and 0 < cost.run_seconds < cost.wall_seconds
    assert cost.setup_seconds > 0 and cost.memory_mib > 20


def test_a_grid_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match=r"exit status 2; .*nowhere"):
        grid_cost("nowhere", "cpu", tmp_path)
