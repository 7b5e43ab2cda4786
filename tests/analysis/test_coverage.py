"""Planted truth, many times: drift and one replicate; and speed at size. Intervals: tests of `experiments`."""

import subprocess
import sys
import time
from itertools import product

import numpy as np
import pytest
from scipy import stats

from experiments.coverage import Design
from pipeline.analysis import contrasts, lenth
from tests.support.planted import planted
from tests.support.reports import written_report

pytestmark = pytest.mark.slow
DESIGN = Design((1, 1, 1))
ON = DESIGN.on
WEIGHTS = DESIGN.weights
SIMULATIONS = 2000
TRUTH = np.log(np.array([1.0, 1.02, 0.7, 0.69, 0.9, 0.91, 0.66, 0.6]))
NOISE = 0.02


def simulate(blocks, seed=0, drift=0.0, ordered=False):
    """Draw (runs, simulations) log times: cell truth + block shift + growth by `drift` over a block."""
    rng = np.random.default_rng([seed, blocks])
    shape = (SIMULATIONS, blocks, 8)
    y = TRUTH + rng.normal(0, 0.05, (SIMULATIONS, blocks, 1)) + rng.normal(size=shape) * NOISE
    place = np.broadcast_to(np.arange(8), shape) if ordered else rng.random(shape).argsort(axis=2)
    return (y + drift * place / 7).reshape(SIMULATIONS, -1).T


@pytest.mark.parametrize("blocks", [3, 4])
def test_the_simulated_statistics_are_those_of_a_report(blocks):
    from pipeline.analysis.effects import estimate

    study = planted(blocks=blocks)
    effects = estimate(study)
    factors = effects.study.factors
    runs = effects.study.runs.sort_values(["block", "cell"])
    cells = [contrasts.label(c, factors) for c in DESIGN.cells]
    ordered = runs.set_index(["block", "cell"])["train_seconds"].reindex(product(map(str, range(blocks)), cells))
    fit = DESIGN.estimator(blocks).fit(np.log(ordered.to_numpy())[:, None], by_block=blocks >= 4)
    table = effects.table["response"].eq("train_seconds").to_numpy()
    np.testing.assert_allclose(effects.details["log_estimate"].to_numpy()[table], fit.estimate[:, 0], atol=1e-12)
    np.testing.assert_allclose(effects.details["se"].to_numpy()[table], np.sqrt(fit.variance[:, 0]), rtol=1e-9)


def test_drift_biases_sorted_runs_and_not_random_ones():
    truth = WEIGHTS @ TRUTH
    bias = {}
    for ordered in (False, True):
        estimate = DESIGN.estimator(3).fit(simulate(3, drift=np.log(1.10), ordered=ordered), by_block=False).estimate
        error = estimate - truth[:, None]
        bias[ordered] = error.mean(axis=1)[:3]
        if not ordered:
            standard = error.std(axis=1)[:3] / np.sqrt(SIMULATIONS)
            assert (np.abs(bias[False]) < 4 * standard).all()
    print("bias of ga, amp, pm in percent:", {k: np.round(100 * v, 3) for k, v in bias.items()})
    assert bias[True].max() > 0.05
    assert np.abs(bias[False]).max() < 0.002


def test_a_report_of_48_cells_and_5_blocks_takes_under_5_seconds(tmp_path):
    study = planted(models=("m1", "m2", "m3"), datasets=("d1", "d2"), blocks=5)
    started = time.process_time()  # of the processor: other programs on the machine do not count
    written_report(study, tmp_path)
    taken = time.process_time() - started
    print(f"{taken:.2f} s")
    assert taken < 5


@pytest.mark.parametrize("shape", ["many blocks", "many models"])
def test_ten_thousand_runs_take_under_30_seconds_and_2_gb(shape, tmp_path):
    models, blocks = (6, 209) if shape == "many blocks" else (250, 5)
    code = f"""
import resource, sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.support.planted import planted
study = planted(models=tuple(f"m{{i}}" for i in range({models})), blocks={blocks})
assert len(study.runs) >= 10_000
from tests.support.reports import written_report
t = time.process_time()
written_report(study, Path({str(tmp_path)!r}))
print(time.process_time() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, mib = (float(v) for v in result.stdout.split())
    print(f"{shape}: {seconds:.1f} s, {mib:.0f} MiB")
    assert seconds < 30
    assert mib < 2048


def test_the_interval_of_one_replicate_is_not_too_narrow():
    y = simulate(1)
    basis = lenth.orthonormal_basis((2, 2, 2))
    sigma = np.array([lenth.lenth(basis, column)[0] for column in y.T])
    error = (WEIGHTS[:3] @ (y - TRUTH[:, None])) / (sigma * np.linalg.norm(WEIGHTS[0]))
    assert (np.abs(error) <= stats.t.ppf(0.975, 7 / 3)).mean() >= 0.95
