"""The figures of a report, in their order."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.analysis.report.drawing import Drawing
from pipeline.analysis.report.effect_figures import forest, interactions, pareto
from pipeline.analysis.report.report import Report
from pipeline.analysis.report.run_figures import budget_bars, curves, run_order_figure
from pipeline.errors import first_line


def draw_figures(report: Report, failed: Callable[[str], None] = lambda _: None) -> list[Drawing]:
    """Draws the figures that a study has data for.

    Args:
        report: The report.
        failed: Told, in a line, of each one that cannot be drawn; the others are.
    """
    parts: dict[str, Callable[[], Drawing | None]] = {
        "effects": lambda: forest(report.effects),
        "interactions": lambda: interactions(report.effects),
        "time budget": lambda: budget_bars(report.budgets, report.effects),
        "accuracy against time": lambda: pareto(report.effects),
        "curves": lambda: curves(report.effects, report.study.history),
        "order of the runs": lambda: run_order_figure(report.trust),
    }
    drawings = []
    for name, draw in parts.items():
        try:
            drawings.append(draw())
        except Exception as error:  # of a library that draws; the numbers are there without
            failed(f"figure of {name}: {type(error).__name__}: {first_line(error)}")
    return [drawing for drawing in drawings if drawing is not None]
