"""What did not act gets no verdict but that, and is not recommended."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import engagement, recommendation
from pipeline.analysis.effects import Effects, estimate
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.headlines import headlines
from pipeline.analysis.time_budget import budgets, reasons
from pipeline.analysis.trust import examine
from pipeline.tracking.study_data import StudyData
from tests.support.planted import one, planted
from tests.support.reports import pages_of, report_of

WHY = "products came out as float32"
TRUTH = {"ga": np.log(0.8), "amp": np.log(0.7)}


def told(study: StudyData, on: str, tag: dict[str, Any], name: str = "not_engaged") -> StudyData:
    """The study, in which runs with a technique on tell something; all runs for `baseline`."""
    runs = study.runs.copy()
    at = runs["params.techniques"].str.split("+").map(lambda names: on in names or on == "baseline")
    runs.loc[at, f"tags.ablate.{name}"] = json.dumps(tag)
    return replace(study, runs=runs)


def unengaged(**options: Any) -> StudyData:
    return told(planted(blocks=4, truth=TRUTH, **options), "amp", {"precision": WHY})


def verdict_of(effects: Effects, term: str, **where: str) -> str:
    return str(one(effects, term=term, **where)["verdict"])


def test_a_technique_that_did_not_act_has_no_verdict_but_that() -> None:
    effects = estimate(unengaged())
    for term, kind in (("amp", "main"), ("amp", "simple"), ("ga:amp", "interaction")):
        assert verdict_of(effects, term, kind=kind) == "not_engaged"
        assert np.isnan(effects.details.loc[one(effects, term=term, kind=kind).name, "further_blocks"])
    assert verdict_of(effects, "ga", kind="main") == "pays"
    assert verdict_of(effects, "ga+amp+pm", kind="combined") == "pays", "what all together do was measured"
    lines = headlines(effects)
    assert any(line.endswith(f": not engaged: {WHY}.") and "amp (" in line for line in lines)
    assert not any("depends" in line for line in lines)
    found = next(reason for reason in reasons(effects, budgets(effects)) if reason.technique == "amp")
    assert (found.ceiling, found.sentence) == (0.0, f"amp: it did not act here: {WHY}.")


def test_a_cell_with_it_is_not_recommended() -> None:
    study = unengaged()
    assert "amp" not in recommendation.recommend(estimate(study), study)[0].cell.split("+")
    study = planted(blocks=4, truth=TRUTH)
    assert "amp" in recommendation.recommend(estimate(study), study)[0].cell.split("+"), "where it acts"


def test_an_average_of_what_acted_and_what_did_not_says_where() -> None:
    study = planted(models=("resnet", "vit"), blocks=4, truth=TRUTH)
    runs = told(study, "amp", {"precision": WHY}).runs
    runs.loc[runs["params.model"].eq("resnet"), "tags.ablate.not_engaged"] = "{}"
    study = replace(study, runs=runs)
    effects = estimate(study)
    assert verdict_of(effects, "amp", kind="main", model="resnet") == "pays"
    assert verdict_of(effects, "amp", kind="main", model="vit") == "not_engaged"
    assert any(line.endswith(f": not engaged: {WHY} (vit / digits).") for line in headlines(effects))
    advice = {each.model: each.cell.split("+") for each in recommendation.recommend(effects, study)}
    assert "amp" in advice["resnet"] and "amp" not in advice["vit"]


def test_alone_it_did_not_act_whatever_it_does_with_others() -> None:
    """A simple effect is of one cell: that of the technique alone."""
    study = unengaged()
    alone = study.runs["params.techniques"].eq("amp")
    tags = study.runs["tags.ablate.not_engaged"].where(alone, "{}")
    effects = estimate(replace(study, runs=study.runs.assign(**{"tags.ablate.not_engaged": tags})))
    assert verdict_of(effects, "amp", kind="simple") == "not_engaged"
    assert verdict_of(effects, "amp", kind="main") == "pays"
    assert verdict_of(effects, "ga+amp+pm", kind="combined") == "pays"


def test_no_further_blocks_are_asked_for_what_did_not_act() -> None:
    """However undecided it is."""
    study = told(planted(blocks=3, truth={"amp": np.log(0.99)}, noise=0.05), "amp", {"precision": WHY})
    plain = estimate(planted(blocks=3, truth={"amp": np.log(0.99)}, noise=0.05))
    assert plain.details.loc[one(plain, term="amp", kind="main").name, "further_blocks"] > 0
    effects = estimate(study)
    assert np.isnan(effects.details.loc[one(effects, term="amp", kind="main").name, "further_blocks"])


def test_one_run_of_each_cell_is_enough() -> None:
    study = unengaged()
    runs = study.runs.copy()
    runs.loc[runs["tags.ablate.block"].ne("0"), "tags.ablate.not_engaged"] = "{}"
    assert verdict_of(estimate(replace(study, runs=runs)), "amp", kind="main") == "not_engaged"


def test_what_acts_in_a_part_of_the_cells_keeps_its_verdict_and_says_so() -> None:
    """As pinned pages do not where the training set lies on the device."""
    study = unengaged()
    with_ga = study.runs["params.techniques"].str.contains("ga")
    runs = study.runs.assign(**{"tags.ablate.not_engaged": study.runs["tags.ablate.not_engaged"].where(with_ga, "{}")})
    study = replace(study, runs=runs)
    effects = estimate(study)
    main = one(effects, term="amp", kind="main")
    assert main["verdict"] == "pays" and verdict_of(effects, "amp", kind="simple") == "pays"
    assert effects.details.loc[main.name, "note"] == f"did not act in 2 of 4 cells: {WHY}"
    assert verdict_of(effects, "ga:amp", kind="interaction") == "not_engaged"
    assert recommendation.recommend(effects, study)[0].cell in ("amp", "amp+pm")


def test_a_control_stays_one() -> None:
    study = told(planted(blocks=4, device="cpu", gpu=False), "pm", {"pin_memory": "no copy", "non_blocking": "no"})
    effects = estimate(study)
    assert effects.not_engaged == {} and verdict_of(effects, "pm", kind="main") != "not_engaged"
    assert estimate(replace(study, runs=study.runs.assign(**{"params.device": "cuda"}))).not_engaged != {}


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", "[" * 100_000, '{"batch_size": "of another technique"}'])
def test_what_others_write_there_says_nothing(text: str) -> None:
    study = planted(blocks=3, truth=TRUTH)
    study = replace(study, runs=study.runs.assign(**{"tags.ablate.not_engaged": text, "tags.ablate.engagement": text}))
    effects = estimate(study)
    assert effects.not_engaged == {}
    assert not engagement.alarms(effects.study.runs)


def test_each_level_speaks_for_itself() -> None:
    study = planted(blocks=4, techniques=("ga",), truth={"ga": np.log(0.8)})
    on = study.runs["params.techniques"].eq("ga")
    more = study.runs[on].assign(**{"params.level.ga": "8", "tags.ablate.not_engaged": '{"accumulation_steps": "3"}'})
    more["run_id"] += "-8"
    first = study.runs.assign(**{"params.level.ga": study.runs["params.techniques"].map({"ga": "2"})})
    effects = estimate(replace(study, runs=pd.concat([first, more], ignore_index=True)))
    assert verdict_of(effects, "ga=8", kind="main") == "not_engaged"
    assert verdict_of(effects, "ga=2", kind="main") == "pays"


def test_what_did_not_train_and_what_was_compiled_late_are_alarms() -> None:
    study = told(planted(blocks=3, truth=TRUTH), "baseline", {"weights": "no update changed the weights"})
    effects = estimate(study)
    assert set(effects.not_engaged["resnet", "digits"]["ga+amp+pm"]) == {"ga", "amp", "pm"}
    alarms = examine(effects.study, effects.inert, effects.timed).alarms
    assert any(line.startswith("In 24 runs no update changed the weights (baseline and 7 more)") for line in alarms)
    study = told(planted(blocks=3), "amp", {"recompiled": 2}, "engagement")
    alarms = examine(estimate(study).study, frozenset()).alarms
    assert any("In 12 runs something was compiled after the warm-up" in line for line in alarms)
    study = told(planted(blocks=3), "amp", {"recompiled": 0}, "engagement")
    assert not any("compiled" in line for line in examine(estimate(study).study, frozenset()).alarms)


def test_the_report_shows_what_was_seen_and_why_not() -> None:
    facts = {"products": "float32", "graph_breaks": 2, "pinned": True}
    study = told(unengaged(), "amp", facts, "engagement")
    report = report_of(study)
    assert [each.words for each in report.engagement] == ["products float32, graph breaks 2, pinned yes"] * 4
    document = report_document(report)
    for shown in pages_of(report):
        assert "What was seen to act" in shown and "graph breaks 2" in shown and "not engaged" in shown
        assert WHY in shown
        assert f"precision: {WHY}" in shown
    assert document["engagement"][0]["facts"] == facts
    assert engagement.Seen("m", "d", "pm", {}, {"a": "x", "b": "y", "c": "x"}).missing_words == "a, c: x; b: y"
    mains = [row for row in document["effects"] if row["kind"] == "main" and row["term"] == "amp"]
    assert {row["not_engaged"] for row in mains} == {WHY}
