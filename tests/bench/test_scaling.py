"""Plans and reports of thousands of cells."""

from __future__ import annotations

from pathlib import Path

from pipeline.bench import scaling


def test_the_cost_of_a_plan_is_that_of_its_cells() -> None:
    found = scaling.measure_plan_cost(1_000)
    assert found["cells"] == 1_008
    assert 0 < found["seconds"] < 30 and found["memory_mib"] > 10


def test_a_report_of_simulated_runs(tmp_path: Path) -> None:
    del tmp_path
    found = scaling.measure_report_cost(80)
    assert found["cells"] == 80 and found["seconds"] > 0
