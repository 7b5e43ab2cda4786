"""Two studies side by side."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.comparison import compare_studies
from tests.support.planted import planted, without


def test_comparing_a_study_with_itself_shows_no_change():
    study = planted(blocks=3)
    same = compare_studies(study, study)
    assert same.cells["ratio"].where(
        same.cells["unit"].eq("ratio"), 1 + same.cells["ratio"]
    ).to_numpy() == pytest.approx(1)
    assert same.provenance == {}
    assert "Nothing that was recorded" in same.to_markdown()


def test_comparing_finds_what_changed_and_where_it_ran():
    slow = planted(blocks=5, noise=0.005, seed=1, truth={"amp": np.log(0.9)})
    fast = planted(blocks=5, noise=0.005, seed=2, truth={"amp": np.log(0.6)})
    fast.runs["metrics.time/train_seconds"] *= 0.5
    fast.runs["tags.env.hostname"] = "other"
    lost = fast.runs["params.techniques"].eq("ga")
    found = compare_studies(slow, replace(fast, runs=fast.runs[~lost]))
    main = found.effects.query("term == 'amp' and kind == 'main' and response == 'train_seconds'").iloc[0]
    assert main["low"] < 0.6 / 0.9 < main["high"]
    base = found.cells.query("cell == 'baseline' and response == 'train_seconds'").iloc[0]
    assert base["low"] < 0.5 * np.sqrt(0.9 / 0.6) < base["high"]
    assert found.only_a == ("resnet/digits/ga",)
    assert found.provenance == {"hostname": (("host",), ("other",))}
    json.loads(found.to_json())
    assert "| hostname | host | other |" in found.to_markdown()


def test_averages_of_different_groups_are_not_compared():
    first = planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=2)
    second = planted(models=("m1", "m3"), datasets=("d1", "d2"), blocks=2, seed=1)
    found = compare_studies(first, second)
    over_all = found.effects[found.effects["model"].eq("all") | found.effects["dataset"].eq("all")]
    assert set(over_all[["model", "dataset"]].itertuples(index=False, name=None)) == {("m1", "all")}
    # (all, d1), (all, d2) and (all, all): other models, so two or four groups that only one study has
    notes = sorted(found.notes)
    assert [note.split("only in ", 1)[1] for note in notes] == [
        "A: m2/d1, m2/d2; only in B: m3/d1, m3/d2.",
        "A: m2/d1; only in B: m3/d1.",
        "A: m2/d2; only in B: m3/d2.",
    ]
    each = len(found.effects.query("model == 'm1' and dataset == 'all'"))
    assert all(note.startswith(f"{each} effects over 'all' are averages of different groups") for note in notes)
    assert json.loads(found.to_json())["notes"] == list(found.notes)
    assert found.notes[0] in found.to_markdown()


def test_an_average_that_lacks_a_group_in_one_study_is_not_compared():
    full = planted(models=("m1", "m2"), blocks=2)
    lost = full.runs["params.model"].eq("m2") & full.runs["params.techniques"].eq("ga")
    found = compare_studies(full, without(full, lost))
    over_all = found.effects.query("model == 'all' and response == 'train_seconds' and kind == 'simple'")
    assert set(over_all["term"]) == {"amp", "pm"}, "ga alone is of both models in A, of one in B"
    assert [note.split("compared; ")[1] for note in found.notes] == ["only in A: m2/digits."]


def test_the_recipe_of_cells_that_go_by_one_name_is_compared():
    a, b = planted(blocks=2), planted(blocks=2, seed=1)
    b.runs["params.recipe.batch_size"] = "512"
    b.runs["params.recipe.seed"] = "7"  # blocks have seeds of their own
    on = b.runs["params.ga"].eq("on")
    b.runs.loc[on, "params.recipe.accumulation_steps"] = "8"
    b.runs.loc[on, "params.level.ga"] = "8"
    found = compare_studies(a, b)
    differing = {"accumulation_steps": (("2",), ("8",)), "batch_size": (("128",), ("512",)), "level.ga": ((), ("8",))}
    assert found.recipe == differing
    assert {"ga", "ga+amp"} <= set(found.cells["cell"]), "it is said, not refused"
    assert json.loads(found.to_json())["recipe"]["level.ga"] == {"a": [], "b": ["8"]}
    assert "\n## What differs in the recipe\n\n| | A | B |\n|---|---|---|\n| accumulation_steps | 2 | 8 |\n" in (
        found.to_markdown()
    )
    assert "| level.ga | – | 8 |" in found.to_markdown()


def test_recipes_of_cells_that_one_study_lacks_do_not_differ():
    both = planted(blocks=2)
    fewer = without(both, both.runs["params.amp"].eq("on"))
    assert compare_studies(both, fewer).recipe == {}
    levels = both.runs["params.ga"].eq("on") & both.runs["params.seed"].eq("1")
    several = replace(both, runs=both.runs.assign(**{"params.level.ga": np.where(levels, "4", "2")}))
    found = compare_studies(several, both)
    assert found.recipe == {"level.ga": (("2", "4"), ())}
    assert "resnet/digits/ga=2" in found.only_a


def test_it_ends_with_a_conclusion():
    old, new = planted(blocks=4, noise=0.003), planted(blocks=4, noise=0.003, seed=1)
    faster = new.runs.assign(**{"metrics.time/train_seconds": new.runs["metrics.time/train_seconds"] * 0.5})
    compared = compare_studies(old, replace(new, runs=faster))
    first, second, *_ = compared.conclusion()
    assert first.startswith("training time: on average B takes 0.") and "of 8 cells B is faster in 8" in first
    assert (
        second.startswith("accuracy: on average ") and "in none of 8 cells is B shown to be better or worse" in second
    )
    assert compared.to_markdown().rstrip().splitlines()[-len(compared.conclusion())] == f"- {first}"
    (time, *_) = compare_studies(planted(blocks=1), planted(blocks=1, seed=1)).conclusion()
    assert "nothing is shown" in time


def test_cells_of_one_side_alone_are_counted_and_a_few_named():
    study = planted(models=tuple(f"m{i}" for i in range(9)), blocks=2)
    half = study.runs[study.runs["params.model"].eq("m0")]
    compared = compare_studies(study, replace(study, runs=half))
    lines = compared.to_markdown().splitlines()
    named = lines[lines.index("Only in A, 64 cells:") :]
    assert sum(line.startswith("- m") for line in named) == 12 and "- and 52 more" in named
    assert len(compared.only_a) == 64
    assert "64 cells only in A, 0 cells only in B" in compared.conclusion()[-1]
