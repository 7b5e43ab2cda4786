"""The effects of one model and dataset: replicates, one replicate, too few cells, levels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.effects import estimate
from tests.support.planted import TRUTH, one, planted, rows, without


def test_one_replicate_uses_lenth_and_says_so():
    effects = estimate(planted(blocks=1))
    amp = one(effects, term="amp", kind="main")
    assert amp["method"] == "lenth"
    assert amp["dof"] == pytest.approx(7 / 3)
    assert amp["low"] < 0.7 < amp["high"]
    assert any("Lenth" in note for note in effects.notes)
    assert not any("Lenth" in note for note in estimate(planted(blocks=2)).notes)


def test_too_few_unreplicated_cells_give_no_interval():
    effects = estimate(planted(blocks=1, techniques=("amp",), truth={"amp": np.log(0.7)}))
    amp = one(effects, term="amp", kind="main")
    assert amp["estimate"] == pytest.approx(0.7, rel=0.05)
    assert np.isnan(amp["low"])
    assert amp["verdict"] == "undecided"


def test_a_cell_missing_in_one_block_keeps_every_effect():
    study = planted(blocks=4, noise=0.002)
    lost = study.runs["tags.ablate.block"].eq("2") & study.runs["params.techniques"].eq("amp")
    effects = estimate(without(study, lost))
    assert rows(effects)["estimate"].notna().all()
    assert one(effects, term="amp", kind="simple")["estimate"] == pytest.approx(
        np.exp(TRUTH["amp"] - TRUTH["ga:amp"] / 2), rel=0.01
    )


def test_several_levels_are_compared_with_off_each():
    study = planted(blocks=3, noise=0.002)
    parts = []
    for level, shift in (("2", 0.0), ("8", -0.2), ("4", -0.1)):
        runs = study.runs[study.runs["params.ga"].eq("on")].copy()
        runs["params.level.ga"] = level
        runs["run_id"] += level
        runs["metrics.time/train_seconds"] *= np.exp(shift)
        parts.append(runs)
    parts.append(study.runs[study.runs["params.ga"].eq("off")])
    effects = estimate(replace(study, runs=pd.concat(parts, ignore_index=True)))
    assert [f.levels for f in effects.study.factors] == [("2", "4", "8"), ("on",), ("on",)]
    for level, shift in (("2", 0.0), ("4", -0.1), ("8", -0.2)):
        found = one(effects, term=f"ga={level}", kind="main")
        assert found["estimate"] == pytest.approx(0.9 * np.exp(shift), rel=0.01)
    assert len(rows(effects, kind="combined")) == 3
    assert len(rows(effects, term="ga=8:amp", kind="interaction")) == 1


def unreplicated(images, **accuracies):
    """One seed of ga, amp and pm, where pm changes no bit; the accuracy of each setting of the others."""
    study = planted(blocks=1)
    bare = (
        study.runs["params.techniques"].str.replace(r"\+?pm$", "", regex=True).replace({"": "none", "baseline": "none"})
    )
    known = {"tags.data.test_images": str(images)} if images else {}
    return replace(study, runs=study.runs.assign(**{"metrics.test/accuracy": bare.map(accuracies)}, **known))


def test_one_seed_is_no_surer_of_accuracy_than_its_test_images_are_many():
    shares = {"none": 0.900, "ga": 0.898, "amp": 0.902, "ga+amp": 0.900001}
    without_size, with_size = (
        one(estimate(unreplicated(images, **shares)), term="amp", kind="simple", response="accuracy")
        for images in (0, 500)
    )
    floor = 100 * np.sqrt((0.9 * 0.1 + 0.902 * 0.098) / 500)
    assert with_size["se"] == pytest.approx(floor) and (np.isnan(without_size["se"]) or without_size["se"] < floor)
    assert with_size["low"] < 0 < with_size["high"]
    sure = one(estimate(unreplicated(10**9, **shares)), term="amp", kind="simple", response="accuracy")
    assert sure["se"] > 100 * np.sqrt(0.2 / 10**9), "the settings' own scatter counts where it is more"


def test_copies_never_make_an_interval_of_no_width():
    """Trial: +1.20 [1.20, 1.20], p < 0.001, from one seed whose A/A control left four of seven contrasts zero."""
    for images in (0, 500):
        effects = estimate(unreplicated(images, none=0.90, ga=0.66, amp=0.912, **{"ga+amp": 0.67}))
        table = rows(effects, response="accuracy")
        known = table["low"].notna()
        nothing = table["estimate"].abs().lt(1e-9)
        assert (table["high"] - table["low"])[known & ~nothing].gt(1e-6).all()
        assert set(table.loc[~known, "verdict"]) <= {"undecided"}
