"""Which models learned anything."""

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.chance import p_above_chance, untrained


def runs_of(*accuracies, images=256.0, majority=0.1):
    """One finished run a cell."""
    return pd.DataFrame(
        {
            "model": "m",
            "dataset": "d",
            "cell": [str(number) for number in range(len(accuracies))],
            "outcome": "finished",
            "accuracy": accuracies,
            "test_images": images,
            "test_classes": 10.0,
            "test_majority": majority,
        }
    )


def test_the_p_value_is_the_binomial_tail():
    rng = np.random.default_rng(0)
    simulated = (rng.binomial(200, 0.1, 100_000) >= 28).mean()
    assert p_above_chance(0.14, 200, 0.1) == pytest.approx(simulated, abs=0.003)
    assert p_above_chance(0.0, 200, 0.1) == 1.0


def test_a_group_learned_where_one_cell_is_above_chance():
    assert str(untrained(runs_of(0.1, 0.12), 0.05)["m", "d"]) == (
        "not trained: accuracy 0.12 at 10 classes (chance 0.10)"
    )
    assert not untrained(runs_of(0.1, 0.2), 0.05)
    assert untrained(runs_of(0.1, 0.2, majority=0.18), 0.05), "always the most frequent class"
    assert not untrained(runs_of(0.2, images=np.nan), 0.05), "not known"


def test_the_best_of_many_cells_is_no_proof():
    """0.139 of 256 is above 0.1 at 5 % by itself, and not as the best of eight."""
    assert not untrained(runs_of(0.139), 0.05)
    assert untrained(runs_of(0.139, *[0.1] * 7), 0.05)
    rng = np.random.default_rng(1)
    told = [untrained(runs_of(*(rng.binomial(256, 0.1, 8) / 256)), 0.05) != {} for _ in range(300)]
    assert np.mean(told) > 0.93
