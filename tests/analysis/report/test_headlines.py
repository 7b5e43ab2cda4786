"""The answer in words."""

from dataclasses import replace

import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.report import headlines
from tests.support.planted import planted
from tests.support.reports import report_of


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (1.0, "about 1 more block would decide it."),
        (7.0, "about 7 more blocks would decide it."),
        (float("nan"), "more blocks will hardly decide it."),
        (None, "more blocks will hardly decide it."),
    ],
)
def test_a_headline_says_how_many_more_blocks_would_decide(further, words):
    row = {"term": "ga", "kind": "main", "estimate": 0.9, "low": 0.8, "high": 1.1, "verdict": "undecided"}
    assert (
        headlines.headline(row, control=False, further=further)
        == f"ga: 1.111x as fast [0.909, 1.250], undecided; {words}"
    )
    assert "more" not in headlines.headline(row, control=True, further=further)


def test_the_summary_names_a_control_and_the_recommendation():
    lines = headlines.summary_lines(report_of(planted(device="cpu", gpu=False, blocks=5, noise=0.003)))
    assert lines[0] == "study planted: 40 finished, 5 blocks"
    assert any("pm" in line and "A/A" in line for line in lines)
    assert any(line.startswith("  resnet / digits: ga+amp: --set ") for line in lines)


def test_no_stored_name_drives_the_terminal():
    lines = headlines.summary_lines(report_of(replace(planted(blocks=1), name="a\x1b[2Jb")))
    assert lines[0].startswith("study a?[2Jb: ")


def test_headlines_are_of_the_widest_pooling():
    rows = headlines.headline_rows(estimate(planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=2)))
    assert set(rows["model"]) == set(rows["dataset"]) == {"all"}
    assert set(rows["kind"]) == {"main", "combined", "synergy"}
