"""Figures of the audit's questions."""

import math

from pipeline.analysis.paper.audit import Question
from pipeline.analysis.report import audit_figures, drawing


def row(**values):
    return {"model": "m", "dataset": "d", "response": "train_seconds", "term": "ga", "kind": "main"} | values


def test_a_question_is_drawn_with_a_panel_per_response(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    table = [
        row(estimate=0.9, low=0.8, high=1.0),
        row(estimate=0.7, low=math.nan, high=math.nan, kind="combined", term="ga+amp"),
        row(estimate=-0.4, low=-0.6, high=-0.2, response="accuracy"),
    ]
    figure = audit_figures.draw_question(Question("Q1", "How?", "ablate", "3 estimates", table))
    assert figure.key == "audit-q1" and figure.title == "Q1. How?"
    assert [ax.get_xlabel() for ax in kept[0].axes] == ["training time, on / off", "test accuracy, points"]
    assert "training time, on / off, ga, m / d: 0.9 (0.8 to 1)" in figure.alt
    assert "ga+amp (combined), m / d: 0.7;" in figure.alt


def test_levels_have_no_line_of_no_effect(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    level = row(estimate=0.9, low=0.8, high=1.0, sd=0.1, seeds=5, response="accuracy")
    audit_figures.draw_question(Question("C1", "How?", "ablate", "1 estimates", [level]))
    (ax,) = kept[0].axes
    assert ax.get_xlabel() == "test accuracy"
    assert len(ax.lines) == 1


def test_a_question_without_an_answer_has_no_figure():
    assert audit_figures.draw_question(Question("Q1", "How?", "ablate", "not measured", [])) is None
