"""The answer in words."""

import pytest

from pipeline.analysis.report import headlines


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
