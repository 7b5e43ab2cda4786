"""Which figures a report has."""

from dataclasses import replace

import pandas as pd
import pytest

from pipeline.analysis.report import drawing, figures
from pipeline.tracking.study_data import StudyData
from tests.support.planted import planted
from tests.support.reports import report_of


@pytest.fixture(autouse=True)
def no_svg(monkeypatch):
    monkeypatch.setattr(drawing, "render", lambda *_: "")


def test_a_report_has_a_figure_of_everything_that_was_measured():
    study = planted(blocks=2)
    drawn = figures.draw_figures(report_of(study))
    assert [d.key for d in drawn] == ["forest", "interactions", "budget", "pareto", "curves", "order"]
    budget = [c for c in study.runs if c.startswith("metrics.budget/")]
    bare = replace(study, runs=study.runs.drop(columns=budget), history=pd.DataFrame())
    assert [d.key for d in figures.draw_figures(report_of(bare))] == ["forest", "interactions", "pareto", "order"]


def test_a_study_without_runs_has_no_figure():
    assert figures.draw_figures(report_of(StudyData("empty", pd.DataFrame()))) == []
