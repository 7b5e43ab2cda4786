"""The answer in words."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.report import headlines
from pipeline.design.factorial import fractional
from tests.support.planted import one, planted, without
from tests.support.reports import report_of

ROW = {"term": "ga", "kind": "main", "estimate": 0.9, "low": 0.8, "high": 1.1, "verdict": "undecided", "blocks": 3}
ROW |= {"control": False, "further_blocks": 7.0}
SILENT = {"low": np.nan, "high": np.nan, "further_blocks": np.nan}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"further_blocks": 1.0}, "[0.909, 1.250], undecided; about 1 more block would decide it (8 chances in 10)."),
        ({}, "[0.909, 1.250], undecided; about 7 more blocks would decide it (8 chances in 10)."),
        ({"further_blocks": np.nan}, "[0.909, 1.250], undecided; more blocks will hardly decide it."),
        (SILENT | {"blocks": 1}, ", undecided; one seed cannot say: run more blocks (--seeds)."),
        (SILENT, ", undecided; these runs cannot say: run more blocks (--seeds)."),
    ],
)
def test_a_headline_says_what_would_decide(change, words):
    assert headlines.headline(ROW | change).replace(" [", "[") == f"ga: 1.111x as fast{words}"
    assert "more" not in headlines.headline(ROW | change | {"control": True})


def test_one_block_of_one_technique_asks_for_seeds():
    (line,) = headlines.headlines(estimate(planted(blocks=1, techniques=("ga",))))
    assert line.endswith("x as fast, undecided; one seed cannot say: run more blocks (--seeds).")


CROSSED = {"ga": 0.0, "amp": 0.0, "ga:amp": 0.1}  # by itself each saves 5 %, on top of the other it costs 5 %


@pytest.mark.parametrize("models", [("resnet",), ("resnet", "vit")])
def test_beside_an_interaction_the_technique_alone_leads(models):
    effects = estimate(planted(models=models, blocks=5, truth=CROSSED))
    first, second, third, *joint = headlines.headlines(effects)
    where = {"kind": "simple", "model": "all" if len(models) > 1 else "resnet"}
    for said, name, other in ((first, "ga", "amp"), (second, "amp", "ga")):
        alone = one(effects, term=name, **where)
        assert said.startswith(f"{name} alone: {1 / alone['estimate']:.3f}x as fast [{1 / alone['high']:.3f}, ")
        assert said.endswith(f"], pays; with {other}: it depends (ga:amp, p < 0.001).")
    assert third.startswith("pm: ")
    assert not any("depends" in line for line in (third, *joint))


def test_beside_an_interaction_an_average_is_called_one_where_nothing_else_is_known():
    study = planted(blocks=5, truth=CROSSED)
    effects = estimate(without(study, study.runs["params.techniques"].eq("ga")))
    main = one(effects, term="ga", kind="main")
    said = headlines.headlines(effects)[0]
    assert said.startswith(f"ga on average: {1 / main['estimate']:.3f}x as fast [")
    assert said.endswith("; with amp: it depends (ga:amp, p < 0.001).")


def test_each_interaction_is_named_and_so_are_its_aliases():
    effects = estimate(planted(blocks=5, truth={"ga:amp": 0.1, "ga:pm": 0.2, "ga:amp:pm": 0.0}))
    ga, amp, _, *_ = headlines.headlines(effects)
    assert ga.endswith("; with amp, pm: it depends (ga:amp, p < 0.001; ga:pm, p < 0.001).")
    assert amp.endswith("; with ga: it depends (ga:amp, p < 0.001).")
    names = tuple("abcdef")
    study = planted(blocks=2, techniques=names, truth={"a:b": 0.1})
    cells = [tuple(row.values()) for row in fractional(names)]
    on = study.runs[[f"params.{name}" for name in names]].eq("on")
    kept = [cell in cells for cell in on.itertuples(index=False, name=None)]
    lines = headlines.headlines(estimate(replace(study, runs=study.runs[kept])))
    for name, other in zip("abcdef", "baefcd", strict=True):
        said = next(line for line in lines if line.startswith(f"{name} on average: "))
        assert said.endswith(f"; with {other}: it depends (a:b = c:e = d:f, p < 0.001).")


def test_levels_have_interactions_of_their_own():
    effects = estimate(planted(blocks=5, truth=CROSSED))
    table = effects.table.replace({"term": {"ga": "ga=4", "ga:amp": "ga=4:amp"}})
    first, second, *_ = headlines.headlines(replace(effects, table=table))
    assert first.startswith("ga=4 alone: ")
    assert first.endswith("; with amp: it depends (ga=4:amp, p < 0.001).")
    assert second.endswith("; with ga=4: it depends (ga=4:amp, p < 0.001).")


def test_an_interaction_within_the_margin_or_with_a_control_is_none():
    lines = headlines.headlines(estimate(planted(blocks=8, truth={"amp": -0.3, "ga:amp": 0.004}, noise=0.001)))
    assert lines[0].startswith("ga: ")
    effects = estimate(planted(blocks=5, device="cpu", gpu=False, truth={"ga": -0.1, "ga:pm": 0.1}))
    assert one(effects, term="ga:pm", kind="interaction")["verdict"] == "costs"
    assert headlines.headlines(effects)[0].startswith("ga: ")


def test_the_summary_names_a_control_and_the_recommendation():
    lines = headlines.summary_lines(report_of(planted(device="cpu", gpu=False, blocks=5, noise=0.003)))
    assert lines[0] == "study planted: 40 finished, 5 blocks"
    assert any("pm" in line and "A/A" in line for line in lines)
    (advice,) = [line for line in lines if line.startswith("  resnet / digits: ga+amp: --set ")]
    assert re.search(
        r" \(measured 0\.6\d\d \[0\.\d+, 0\.\d+\]; expect 0\.6\d\d, shrunk because it is the best of 3\)$", advice
    )


def test_no_stored_name_drives_the_terminal():
    lines = headlines.summary_lines(report_of(replace(planted(blocks=1), name="a\x1b[2Jb")))
    assert lines[0].startswith("study a?[2Jb: ")


def test_headlines_are_of_the_widest_pooling():
    effects = estimate(planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=2))
    rows = headlines.headline_rows(effects)
    assert set(rows["model"]) == set(rows["dataset"]) == {"all"}
    assert len(headlines.headlines(effects)) == 5
    groups = headlines.headlines(replace(effects, table=effects.table[~effects.table["model"].eq("all")]))
    assert [line.split(": ")[0] for line in groups[::5]] == ["m1 / all", "m2 / all"]
