"""The paragraph that a paper could take."""

from pipeline.analysis.report.conditions import conditions
from pipeline.analysis.report.methods import methods_text
from tests.analysis.report.test_conditions import COMMAND, study_with_conditions
from tests.support.planted import planted
from tests.support.reports import report_of


def test_design_order_machine_intervals_corrections_and_runs_are_said():
    report = report_of(study_with_conditions())
    text = methods_text(report, conditions(report)).replace("\\", "")
    for words in (
        "full factorial design over 3 techniques (ga, amp and pm) on 2 models (m1 and m2) and 1 data set (digits)",
        "16 cells in 2 blocks, one seed per block (0 and 1)",
        "in random order",
        "32 of 32 runs finished.",
        "1,212 train images",
        "torch 2.15.0",
        "95 % intervals",
        "HC2",
        "Holm",
        f"    {COMMAND}",
    ):
        assert words in text, words


def test_one_block_has_other_errors_and_nothing_is_said_of_nothing():
    report = report_of(planted(blocks=1))
    text = methods_text(report, conditions(report))
    assert "Lenth" in text and "HC2" not in text and "1 block, one seed" in text
    study = planted(blocks=1)
    study.runs["tags.ablate.outcome"] = "oom"
    report = report_of(study)
    text = methods_text(report, conditions(report))
    assert "0 of 8 runs finished" in text and "contrasts" not in text
