"""Planted truth, many times: what intervals and verdicts claim holds, in every scenario and design."""

import numpy as np
import pytest

from experiments import coverage
from experiments.coverage import ALIKE, DESIGNS, SCENARIOS, Design

pytestmark = pytest.mark.slow
STUDIES = 4000  # the coverage of one contrast is known to 0.35 points
# the one figure that is missed, as docs/analysis.md says: a contrast that leans on one cell by 3, of skewed times
SKEWED = {("lognormal tail", 16, "synergy"), ("10 % of runs 30 % slower", 16, "synergy")}
LEAST = 93.5 - 2 * 0.35


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_intervals_cover_and_few_families_say_pays(scenario):
    """From four blocks whatever happens; with two and three where runs are independent and alike."""
    for cells, levels in DESIGNS.items():
        if scenario == "exact twins" and cells < 4:
            continue
        design = Design(levels)
        for blocks in (2, 3, 4, 5, 10) if scenario in ALIKE else (4, 5, 10):
            y = coverage.simulate(design, scenario, blocks, STUDIES, seed=7)
            for kind, (covered, pays, broken) in coverage.judge(design, y, blocks).items():
                skewed = (scenario, cells, kind) in SKEWED
                assert covered >= (92 if skewed else LEAST), (cells, blocks, kind)
                assert pays <= (8 if skewed else 4 + 2 * 0.31), (cells, blocks, kind)
                assert broken == 0, (cells, blocks, kind)


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0])
def test_rows_over_models_cover_where_techniques_vary_between_blocks(tau):
    for blocks in (4, 5, 10):
        covered, pays = coverage.pooled_coverage(tau, blocks, STUDIES, seed=7)
        assert covered >= LEAST, blocks
        assert pays <= 4 + 2 * 0.31, blocks


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
@pytest.mark.parametrize(("levels", "images", "spread"), [((1, 1, 1), 500, 0.01), ((1, 1), 45, 0.02)])
def test_accuracy_under_a_technique_that_changes_no_bit_is_rarely_judged(levels, images, spread, blocks):
    covered, false, _ = coverage.accuracy_judged(levels, blocks, images, spread, 800, seed=7)
    assert false <= 5 + 2 * 0.77
    assert np.isnan(covered) or covered >= 95 - 2 * 0.77


def test_the_tables_are_written():
    for table in coverage.TABLES.values():
        lines = table(20, 1, (2, 4)).splitlines()
        assert len(lines) > 2 and {line.count("|") for line in lines} == {lines[0].count("|")}


def test_the_command_prints_all_tables_or_those_that_are_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["coverage.py", "--studies", "4"])
    coverage.main()
    printed = capsys.readouterr().out
    assert all(f"{name}, 4 studies a figure" in printed for name in coverage.TABLES)
    monkeypatch.setattr("sys.argv", ["coverage.py", "widths", "--studies", "4"])
    coverage.main()
    assert "intervals" not in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["coverage.py", "wrong"])
    with pytest.raises(SystemExit, match="2"):
        coverage.main()
