"""The figures of a report, in their order."""

from __future__ import annotations

from pipeline.analysis.report.drawing import Drawing
from pipeline.analysis.report.effect_figures import forest, interactions, pareto
from pipeline.analysis.report.report import Report
from pipeline.analysis.report.run_figures import budget_bars, curves, run_order_figure


def draw_figures(report: Report) -> list[Drawing]:
    """Draws the figures that a study has data for."""
    drawings = [
        forest(report.effects),
        interactions(report.effects),
        budget_bars(report.budgets, report.effects),
        pareto(report.effects),
        curves(report.effects, report.study.history),
        run_order_figure(report.trust),
    ]
    return [drawing for drawing in drawings if drawing is not None]
