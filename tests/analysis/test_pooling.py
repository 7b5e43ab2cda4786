"""Averages over models and data sets."""

import numpy as np
import pytest

from pipeline.analysis.effects import estimate
from tests.support.planted import planted, rows


def test_pooled_rows_average_the_groups():
    effects = estimate(planted(models=("m1", "m2"), datasets=("d1", "d2")))
    groups = rows(effects, term="amp", kind="main")
    single = groups[groups["model"].ne("all") & groups["dataset"].ne("all")]
    pooled = groups[groups["model"].eq("all") & groups["dataset"].eq("all")].iloc[0]
    assert len(groups) == 9
    assert pooled["log_estimate"] == pytest.approx(single["log_estimate"].mean(), abs=1e-12)
    assert pooled["se"] == pytest.approx(np.sqrt((single["se"] ** 2).sum()) / 4)
    assert pooled["dof"] > single["dof"].max()
