"""Decisions against statsmodels and the definitions."""

import numpy as np
import pytest

from pipeline.analysis import verdicts


def test_holm_agrees_with_statsmodels_and_skips_missing_tests():
    from statsmodels.stats.multitest import multipletests

    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(verdicts.holm(p), multipletests(p, method="holm")[1])
    holed = verdicts.holm([0.01, np.nan, 0.04])
    np.testing.assert_allclose(holed, [0.02, np.nan, 0.04])
    columns = np.column_stack([p, p[::-1], np.where(p > 0.5, np.nan, p)])
    each = np.column_stack([verdicts.holm(column) for column in columns.T])
    np.testing.assert_array_equal(verdicts.holm(columns), each)


def test_equivalence_agrees_with_statsmodels_tost():
    from statsmodels.stats.weightstats import DescrStatsW

    rng = np.random.default_rng(0)
    for shift in (0.0, 0.005, 0.02):
        x = rng.normal(shift, 0.01, size=12)
        p = DescrStatsW(x).ttost_mean(-0.01, 0.01)[0]
        se = x.std(ddof=1) / np.sqrt(12)
        assert bool(verdicts.equivalent(x.mean(), se, 11, 0.01, 0.05)) == (p < 0.05)


@pytest.mark.parametrize(
    ("estimate", "se", "adjusted", "higher", "expected"),
    [
        (-0.10, 0.01, 0.001, False, "pays"),
        (0.10, 0.01, 0.001, False, "costs"),
        (0.10, 0.01, 0.001, True, "pays"),
        (0.001, 0.001, 0.4, False, "no_effect"),
        (-0.004, 0.0005, 0.001, False, "no_effect"),  # significant, yet too small to matter
        (-0.03, 0.02, 0.2, False, "undecided"),
        (-0.03, np.nan, np.nan, False, "undecided"),
    ],
)
def test_verdicts(estimate, se, adjusted, higher, expected):
    found = verdicts.verdicts([estimate], [se], [10], [adjusted], [0.01], [higher], 0.05)
    assert found.tolist() == [expected]


def test_a_deterministic_response_is_decided_without_an_error():
    assert verdicts.p_values([0.0, 1e-14, -0.5], [0.0, 1e-16, 0.0], [7, 7, 7]).tolist() == [1.0, 1.0, 0.0]
    assert verdicts.half_widths([0.0], [7], 0.95).tolist() == [0.0]


def test_further_blocks_is_the_least_number_that_decides():
    arguments = {"dof": 7.0, "blocks": 2, "margin": 0.01, "penalty": 3.0, "alpha": 0.05}
    more = verdicts.further_blocks([0.03], [0.02], **arguments)[0]
    from scipy import stats

    def decided(total):
        se, dof = 0.02 * np.sqrt(2 / total), 7.0 * (total - 1)
        return stats.t.isf(0.05 / 6, dof) * se < 0.03 or 0.03 + stats.t.isf(0.05, dof) * se < 0.01

    assert decided(2 + more)
    assert not decided(2 + more - 1)
    assert np.isnan(verdicts.further_blocks([0.01], [0.5], **arguments)[0])
    assert np.isnan(verdicts.further_blocks([0.01], [np.nan], **arguments)[0])
