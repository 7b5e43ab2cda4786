"""What a controller asks between blocks."""

import pytest

from pipeline.analysis import stopping
from pipeline.analysis.effects import estimate
from tests.support.planted import planted


def test_a_controller_stops_when_every_interval_is_narrow():
    wide = stopping.undecided_effects(estimate(planted(blocks=2, noise=0.05)), 0.02)
    assert {u.term for u in wide} == {"ga", "amp", "pm"}
    assert all(u.width > 0.02 and u.further_blocks >= 1 for u in wide)
    assert stopping.undecided_effects(estimate(planted(blocks=5, noise=0.001)), 0.02) == []
    with pytest.raises(ValueError, match="positive"):
        stopping.undecided_effects(estimate(planted()), 0)


def test_the_planned_blocks_reach_the_precision():
    found = stopping.undecided_effects(estimate(planted(blocks=3, noise=0.02)), 0.02)[0]
    more = estimate(planted(blocks=3 + 2 * found.further_blocks, noise=0.02))
    assert stopping.undecided_effects(more, 0.02) == []


def test_an_effect_that_no_block_can_give_does_not_hold_a_controller():
    study = planted(blocks=3, noise=0.001)
    study.runs.loc[study.runs["params.amp"].eq("on"), "tags.ablate.outcome"] = "oom"
    assert stopping.undecided_effects(estimate(study), 0.02) == []
