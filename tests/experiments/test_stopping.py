"""experiments/stopping.py: what the rule of `--until-decided` promises, and that fewer blocks would not keep it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial
from types import ModuleType

import numpy as np
import pytest

from pipeline.analysis.stopping import FIRST_LOOK, FURTHER_BLOCKS
from tests.support.ablate import ROOT, environment

SCRIPT = ROOT / "experiments" / "stopping.py"
WORST = 0.012  # noise at which coverage is least, with one technique and intervals of 2 %


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stopping_experiment", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("techniques", [1, 2, 3])
def test_intervals_cover_at_the_stop(script: ModuleType, techniques: int) -> None:
    rules = {
        "ours": partial(script.sequential, first=FIRST_LOOK, further=FURTHER_BLOCKS),
        "hasty": partial(script.sequential, first=FIRST_LOOK, further=1),
    }
    studies = 40_000
    error = (0.94 * 0.06 / studies / techniques) ** 0.5
    for noise in (WORST / 2, WORST, 2 * WORST):
        settings = {"width": 0.02, "max_blocks": 20, "studies": studies, "seed": 1}
        found = script.simulate(rules, noise, techniques, **settings)
        coverage, wider, _ = found["ours"]
        assert coverage >= 0.94 - 2 * error and wider == 0
        if (techniques, noise) == (1, WORST):
            assert found["hasty"][0] < 0.94 - 4 * error, "the check can fail"


@pytest.mark.slow
def test_it_prints_a_table_that_its_seed_repeats() -> None:
    words = ["--studies", "200", "--noise", "0.5", "4", "--techniques", "2", "--seed", "3"]
    calls = [
        subprocess.run(
            [sys.executable, str(SCRIPT), *words], env=environment(), capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    rows = [line for line in calls[0].splitlines() if line.startswith("| ")]
    assert calls[0] == calls[1] and len(rows) == 13 and all(row.count("|") == 7 for row in rows)
    assert f"| **from {FIRST_LOOK} blocks, {FURTHER_BLOCKS} more** |" in calls[0]


@pytest.mark.slow
@pytest.mark.parametrize("last", [4, 12])
def test_levels_of_repeated_looks_keep_that_of_all(script: ModuleType, last: int) -> None:
    from scipy import stats

    level = script.nominal_level(2, last, 200_000, seed=1)
    values = np.random.default_rng(2).normal(size=(100_000, last))
    looks = [stats.ttest_1samp(values[:, :n], 0.0, axis=1).pvalue < level for n in range(2, last + 1)]
    assert np.any(looks, axis=0).mean() == pytest.approx(0.05, abs=0.003)
