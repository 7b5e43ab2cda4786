"""The answer in words."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.answer import ALONE, TOGETHER, Estimated, OnTop, Part
from pipeline.analysis.effects import estimate
from pipeline.analysis.report import headlines
from pipeline.analysis.report.document import report_document
from tests.support.planted import one, planted, without
from tests.support.reports import report_of

NAN = math.nan
SPEED = Estimated(1.111, 0.909, 1.25, "undecided", 7.0)
PART = Part("ga", ALONE, SPEED, None, None, NAN, 3, False, "")
CROSSED = {"ga": 0.0, "amp": 0.0, "ga:amp": 0.1}  # by itself each saves 5 %, on top of the other it costs 5 %


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"further_blocks": 1.0}, " [0.909, 1.250], undecided; about 1 more block would decide it (8 chances in 10)."),
        ({}, " [0.909, 1.250], undecided; about 7 more blocks would decide it (8 chances in 10)."),
        ({"further_blocks": NAN}, " [0.909, 1.250], undecided; more blocks will hardly decide it."),
        ({"low": NAN, "high": NAN}, ", undecided; these runs cannot say: run more blocks (--seeds)."),
    ],
)
def test_a_sentence_says_what_would_decide(change, words):
    part = replace(PART, speed=replace(SPEED, **change))
    assert headlines.part_line(part, 1.0) == f"ga alone: 1.111x as fast{words}"
    assert "more" not in headlines.part_line(replace(part, control=True), 1.0)
    turned = headlines.part_line(replace(part, in_rounds=True), 1.0)
    assert "block" not in turned and "seeds" not in turned and ("round" in turned) == ("block" in words)


def test_one_block_of_one_technique_asks_for_seeds():
    first, line = headlines.headlines(estimate(planted(blocks=1, techniques=("ga",))))
    assert "x as fast, undecided; one seed cannot say: run more blocks (--seeds); accuracy " in line
    assert "keep the baseline: nothing that was tried is shown to be faster" in first


def test_what_is_shown_by_itself_and_open_among_all_is_said_to_be_so():
    part = replace(PART, speed=Estimated(1.1, 1.05, 1.15, "undecided"), accuracy=Estimated(-7, -11, -3, "undecided"))
    line = headlines.part_line(part, 1.0)
    assert "1.100x as fast [1.050, 1.150], undecided with all comparisons counted; " in line
    assert "accuracy -7.00 points [-11.00, -3.00], undecided with all comparisons counted" in line
    part = replace(PART, accuracy=Estimated(-7, -16, +1, "undecided"))
    assert headlines.part_line(part, 1.0).count("with all comparisons counted") == 0


def test_accuracy_and_memory_stand_beside_the_speed():
    part = replace(PART, speed=Estimated(1.5, 1.4, 1.6, "pays"), accuracy=Estimated(-2.0, -2.5, -1.5, "costs"))
    part = replace(part, memory=Estimated(0.6, 0.58, 0.62, "pays"))
    assert headlines.part_line(part, 0.5) == (
        "ga alone: 1.500x as fast [1.400, 1.600], pays; accuracy -2.00 points [-2.50, -1.50], worse; "
        "memory 0.600x [0.580, 0.620]."
    )
    same = replace(part, accuracy=Estimated(-0.1, -0.2, 0.1, "no_effect"), memory=None, host_mib=4.2)
    assert headlines.part_line(same, 0.5).endswith("[-0.20, +0.10], within 0.5 points; host memory +4 MiB.")


def test_the_hosts_memory_is_never_less_by_nothing():
    assert headlines.part_line(replace(PART, host_mib=-0.4), 1.0).endswith("; host memory +0 MiB.")
    assert headlines.part_line(replace(PART, host_mib=-0.6), 1.0).endswith("; host memory -1 MiB.")


def test_what_acts_on_top_of_another_only_is_said_so():
    alone = replace(PART, term="channels_last", speed=Estimated(1.022, 0.97, 1.07, "undecided", 9.0))
    alone = replace(alone, on_top=(OnTop("amp", 7.337, "costs"),))
    assert headlines.part_line(alone, 1.0) == (
        "channels_last: nothing shown alone (1.022x as fast [0.970, 1.070], undecided); on top of amp 7.337x as fast, "
        "which itself costs."
    )
    assert "nothing alone (" in headlines.part_line(replace(alone, speed=replace(alone.speed, verdict="no_effect")), 1)


@pytest.mark.parametrize(
    ("speed", "synergy", "words"),
    [
        (
            0.694,
            "pays",
            "they soften each other: 7.488x what the single speed-ups multiply to [7.000, 8.000], "
            "but together still 0.694x",
        ),
        (1.4, "pays", "they help each other: 7.488x what the single speed-ups multiply to [7.000, 8.000]"),
        (1.4, "costs", "they get in each other's way: 7.488x what the single speed-ups multiply to [7.000, 8.000]"),
        (1.4, "no_effect", "the single speed-ups multiply"),
    ],
)
def test_a_synergy_is_no_gain_where_the_combination_is_slower(speed, synergy, words):
    part = Part(
        "amp+channels_last",
        TOGETHER,
        Estimated(speed, speed / 2, speed * 2, "no_effect"),
        None,
        None,
        NAN,
        2,
        False,
        "",
        (),
        Estimated(7.488, 7.0, 8.0, synergy),
    )
    said = headlines.part_line(part, 1.0)
    assert said.endswith(f"no effect; {words}.") and "pays" not in said


@pytest.mark.parametrize("models", [("resnet",), ("resnet", "vit")])
def test_a_technique_is_told_alone_and_on_top_of_what_it_depends_on(models):
    effects = estimate(planted(models=models, blocks=5, truth=CROSSED))
    lines = headlines.headlines(effects)
    where = {"kind": "simple", "model": "all" if len(models) > 1 else "resnet"}
    for name, other in (("ga", "amp"), ("amp", "ga")):
        alone = one(effects, term=name, **where)
        (said,) = (line.strip() for line in lines if line.strip().startswith(f"{name} ("))
        assert f" alone: {1 / alone['estimate']:.3f}x as fast [{1 / alone['high']:.3f}, " in said
        cells = effects.cells[effects.cells["response"].eq("train_seconds")]
        means = cells.pivot_table(index="model", columns="cell", values="mean")
        on_top = np.exp(np.log(means[other] / means["ga+amp"]).mean())
        assert f"], pays; on top of {other} {on_top:.3f}x as fast, which itself pays; accuracy" in said


def test_an_average_is_called_one_where_the_technique_alone_did_not_run():
    study = planted(blocks=5, truth=CROSSED)
    effects = estimate(without(study, study.runs["params.techniques"].eq("ga")))
    main = one(effects, term="ga", kind="main")
    (said,) = (line for line in headlines.headlines(effects) if line.startswith("  ga ("))
    assert f" on average over the others' settings: {1 / main['estimate']:.3f}x as fast [" in said


def test_what_to_use_leads_and_agrees_with_the_recommendation():
    report = report_of(planted(device="cpu", gpu=False, blocks=5, noise=0.003))
    lines = headlines.summary_lines(report)
    (advice,) = report.recommendations
    assert lines[0] == "study planted: 40 finished, 5 blocks"
    assert lines[1].startswith(f"  resnet on digits: use {advice.cell}: {1 / advice.ratio:.3f}x as fast [")
    assert f"[{1 / advice.high:.3f}, {1 / advice.low:.3f}], accuracy not worse by more than 1 point (" in lines[1]
    assert lines[2].strip() == advice.set_line
    assert any("pm (pinned" in line and "(an A/A control here: any effect would be noise)" in line for line in lines)
    assert any("Bonferroni" in line and line.startswith("  note: ") for line in lines)
    assert not any("Bonferroni" in line or "Holm" in line for line in lines[1:7])
    document = report_document(report)["answer"]
    assert [f"  {group['model']} on {group['dataset']}: {group['line']}" for group in document["groups"]] == [lines[1]]
    assert document["names"]["ga"] == "gradient accumulation, micro-batch fixed"
    assert sum("gradient accumulation" in part["line"] for part in document["groups"][0]["parts"]) == 1


def test_a_fast_setting_that_costs_accuracy_is_named_and_not_used():
    study = planted(blocks=5, noise=0.003, techniques=("amp",), truth={"amp": np.log(0.7)})
    lost = study.runs["params.amp"].eq("on") * 0.05
    runs = study.runs.assign(**{"metrics.test/accuracy": study.runs["metrics.test/accuracy"] - lost})
    first, *_ = headlines.headlines(estimate(replace(study, runs=runs)))
    assert first.startswith("resnet on digits: keep the baseline: amp is 1.4")
    assert ", but it costs accuracy: -5." in first


def with_accuracy(study, accuracy, images=256):
    return replace(
        study,
        runs=study.runs.assign(
            **{
                "metrics.test/accuracy": accuracy,
                "tags.data.test_images": str(images),
                "tags.data.classes": "10",
                "metrics.test/majority": 0.105,
            }
        ),
    )


def test_a_model_that_is_not_trained_gets_no_word_on_accuracy():
    study = planted(blocks=3, noise=0.003, truth={"amp": np.log(0.7)})
    random = np.random.default_rng(0)
    report = report_of(with_accuracy(study, 0.0977 + random.integers(0, 2, len(study.runs)) / 256))
    first, *others = headlines.headlines(report.effects)
    assert "; accuracy not judged: not trained: accuracy 0.10 at 10 classes (chance 0.10)" in first
    assert first.startswith("resnet on digits: fastest is ") and not any("accuracy" in line for line in others)
    table = report.effects.table[report.effects.table["response"].isin(["accuracy", "f1_macro"])]
    assert set(table["verdict"]) == {"not_trained"}
    assert report.effects.details.loc[table.index, "non_inferior"].isna().all()


def test_a_speed_study_says_that_accuracy_was_not_measured():
    study = planted(blocks=5)
    bare = study.runs.drop(columns=["metrics.test/accuracy", "metrics.test/f1_macro"])
    first, *others = headlines.headlines(estimate(replace(study, runs=bare)))
    assert (
        "fastest is " in first
        and "; accuracy was not measured" in first
        and not any("accuracy" in line for line in others)
    )


def test_where_nothing_can_be_compared_it_says_so():
    study = planted(blocks=2, techniques=("amp",))
    effects = estimate(without(study, study.runs["params.techniques"].eq("baseline")))
    assert headlines.headlines(effects)[0] == (
        "resnet on digits: nothing to compare: the baseline, or every other setting, has no finished run."
    )
    assert headlines.headlines(estimate(replace(study, runs=study.runs.iloc[:0]))) == []


def test_no_stored_name_drives_the_terminal():
    lines = headlines.summary_lines(report_of(replace(planted(blocks=1), name="a\x1b[2Jb")))
    assert lines[0] == "study a?[2Jb: 8 finished, 1 block"


def test_of_several_models_each_has_its_setting_and_techniques_are_averaged():
    effects = estimate(planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=2))
    lines = headlines.headlines(effects)
    assert [line.split(": ")[0] for line in lines if " on d" in line] == [
        "m1 on d1",
        "m1 on d2",
        "m2 on d1",
        "m2 on d2",
    ]
    title = lines.index("over 2 models and 2 data sets:")
    assert [line.split()[0] for line in lines[title + 1 :]] == ["ga", "amp", "pm", "ga+amp+pm"]


def test_many_groups_do_not_fill_the_terminal(monkeypatch):
    monkeypatch.setattr(headlines, "MOST_GROUPS", 1)
    lines = headlines.headlines(estimate(planted(models=("m1", "m2"), blocks=2)))
    assert "and 1 more in the report" in lines and not any(line.startswith("m2 on") for line in lines)


def test_a_setting_that_cannot_change_a_time_is_a_control_of_times():
    study = planted(blocks=4, techniques=("lrx",), truth={"lrx": np.log(0.9)})
    rate = study.runs["params.lrx"].map({"on": "0.2", "off": "0.1"})
    same = {"params.recipe.accumulation_steps": "1", "params.recipe.precision": "fp32"}
    study = replace(study, runs=study.runs.assign(**{"params.recipe.learning_rate": rate}, **same))
    report = report_of(study)
    first, line = headlines.headlines(report.effects)
    assert "keep the baseline" in first
    assert line.endswith("although it can do nothing here: effects of this size cannot be trusted.")
    assert any("A/A controls differ by" in alarm for alarm in report.trust.alarms)
    accuracy = one(report.effects, term="lrx", kind="main", response="accuracy")
    assert not report.effects.details.loc[accuracy.name, "control"], "of accuracy it is a technique as any other"


def test_what_pays_by_itself_only_is_not_said_to_be_shown():
    effects = estimate(planted(blocks=5, noise=0.003))
    cells = effects.cells.assign(verdict="undecided")
    first, *others = headlines.headlines(replace(effects, cells=cells))
    assert "nothing that was tried is shown to be faster once all settings are counted together" in first
    assert any(", pays" in line for line in others)
