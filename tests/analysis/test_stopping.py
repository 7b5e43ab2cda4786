"""What a controller asks between blocks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import stopping
from pipeline.analysis.effects import estimate
from pipeline.analysis.stopping import FIRST_LOOK, FURTHER_BLOCKS, main_effect_precisions, precise
from tests.support.planted import planted

LEAST = FIRST_LOOK + FURTHER_BLOCKS


def first_blocks(study, blocks):
    """The same study, ended earlier."""
    return replace(study, runs=study.runs[study.runs["tags.ablate.block"].astype(int) < blocks])


def test_an_effect_is_precise_a_number_of_blocks_after_it_was_narrow_and_while_it_is():
    narrow = np.full(12, 0.01)
    assert precise(narrow, 0.02).nonzero()[0][0] + 1 == LEAST, "narrow before the first look is not looked at"
    wide_at = np.where(np.isin(np.arange(1, 13), (4, 5, 10)), 0.03, narrow)
    assert (precise(wide_at, 0.02).nonzero()[0] + 1).tolist() == [11, 12], (
        "first narrow after 6 blocks, not narrow after 10"
    )
    assert not precise([np.nan] * 20, 0.02).any() and not precise([], 0.02).any()
    both = precise(np.stack([narrow, wide_at]), 0.02)
    assert both.shape == (2, 12) and both.any(axis=1).all()
    assert precise(narrow, 0.02, first=2, further=0).nonzero()[0][0] + 1 == 2


def test_no_block_is_enough_before_the_ninth_whatever_the_noise():
    quiet = planted(blocks=LEAST, noise=1e-5, techniques=("ga",), truth={})
    assert {e.at_least for e in main_effect_precisions(quiet, 0.02)} == {0}
    for blocks in (1, FIRST_LOOK - 1, FIRST_LOOK, LEAST - 1):
        found = main_effect_precisions(first_blocks(quiet, blocks), 0.02)
        assert [(e.name, e.at_least) for e in found] == [("ga on resnet/digits", LEAST - blocks)], blocks


def test_widths_are_those_of_the_report_and_the_widest_comes_first():
    study = planted(models=("resnet", "vit"), blocks=6, noise=0.03)
    found = main_effect_precisions(study, 0.02)
    table = estimate(study).table
    rows = table[table["kind"].eq("main") & table["response"].eq("train_seconds") & table["model"].ne("all")]
    reported = {f"{r.term} on {r.model}/{r.dataset}": r.high / r.low - 1 for r in rows.itertuples()}
    assert {e.name: e.width for e in found} == pytest.approx(reported)
    assert [e.width for e in found] == sorted((e.width for e in found), reverse=True)
    assert str(found[0]) == f"{found[0].name} ({found[0].width:.1%} wide, about {found[0].expected} more blocks)"


def test_a_group_is_done_at_the_same_block_whoever_asks_and_when():
    study = planted(blocks=18, noise=0.012, techniques=("ga",), truth={}, seed=4)
    shuffled = replace(study, runs=study.runs.sample(frac=1, random_state=0))

    def needs(n, whole=study):
        (found,) = main_effect_precisions(first_blocks(whole, n), 0.02)
        return found.at_least, found.expected

    blocks = 1
    while least := needs(blocks)[0]:  # as a controller does: most looks are made afterwards
        blocks += least
    assert LEAST + 2 < blocks < 18
    least, expected = needs(blocks - 4)
    assert 0 < least <= 4 <= expected + 3, "never more than it takes, and about what is expected"
    assert needs(blocks - 1, shuffled)[0] == 1 and not needs(blocks, shuffled)[0], "blocks count, not rows"
    assert needs(18) == (0, 0), "done stays done"


def test_groups_are_judged_on_their_own():
    noisy, quiet = (
        planted(models=(model,), blocks=9, noise=noise, techniques=("pm",), truth={})
        for model, noise in (("vit", 0.2), ("resnet", 0.001))
    )
    both = replace(quiet, runs=pd.concat([noisy.runs, quiet.runs]))
    found = main_effect_precisions(both, 0.02)
    assert {e.model for e in found if e.at_least} == {"vit"}
    assert {e.model for e in found if not e.at_least} == {"resnet"}


def test_an_effect_that_no_block_can_give_does_not_hold_a_controller():
    study = planted(blocks=LEAST, noise=0.001)
    study.runs.loc[study.runs["params.amp"].eq("on"), "tags.ablate.outcome"] = "oom"
    assert {(e.name, e.at_least) for e in main_effect_precisions(study, 0.02)} == {
        ("ga on resnet/digits", 0),
        ("pm on resnet/digits", 0),
    }
    study.runs["tags.ablate.outcome"] = "oom"
    assert main_effect_precisions(study, 0.02) == []
    assert main_effect_precisions(planted(blocks=2, techniques=()), 0.02) == []


def test_a_block_without_a_measurement_does_not_count():
    study = planted(blocks=LEAST, noise=0.001)
    study.runs.loc[study.runs["tags.ablate.block"].eq("2"), "tags.ablate.outcome"] = "failed"
    assert {e.at_least for e in main_effect_precisions(study, 0.02)} == {1}


def test_settings_of_a_variant_are_effects_of_one_planned_group():
    study = planted(blocks=2, noise=0.001)
    other = study.runs.assign(**{"params.recipe.batch_size": "64", "run_id": study.runs["run_id"] + "-64"})
    found = main_effect_precisions(replace(study, runs=pd.concat([study.runs, other])), 0.02)
    assert {e.model for e in found} == {"resnet"} and len(found) == 6
    assert any(e.name == "ga on resnet [batch_size=64]/digits" for e in found)


def test_a_precision_has_to_be_positive():
    with pytest.raises(ValueError, match="positive"):
        stopping.main_effect_precisions(planted(), 0)
