"""The scales of the responses."""

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import time_to_target
from pipeline.analysis.frame import SUMMARY_METRICS
from pipeline.analysis.responses import BY_NAME, RESPONSES


def test_ratios_are_analysed_as_logarithms_and_fractions_as_points():
    raw = pd.Series([1.0, np.e, 0.0, -1.0, np.nan])
    logs = BY_NAME["train_seconds"].to_scale(raw)
    assert logs.tolist()[:2] == [0.0, 1.0] and logs[2:].isna().all(), "what has no logarithm was not measured"
    assert BY_NAME["accuracy"].to_scale(pd.Series([0.9, 0.0])).tolist() == [90.0, 0.0]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.name)
def test_a_mean_on_the_scale_is_read_back_as_a_raw_value(response):
    assert response.level(response.to_scale(pd.Series([0.25])).item()) == pytest.approx(0.25)


def test_every_response_is_a_metric_of_a_run_or_made_of_its_curves():
    assert {response.name for response in RESPONSES} - set(SUMMARY_METRICS) == {time_to_target.RESPONSE}
    better = {response.name for response in RESPONSES if response.higher_is_better}
    assert better == {"images_per_second", "accuracy", "f1_macro"}
