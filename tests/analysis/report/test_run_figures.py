"""Figures of what the runs did."""

import numpy as np
import pytest

from pipeline.analysis import time_budget, trust
from pipeline.analysis.effects import estimate
from pipeline.analysis.frame import tidy
from pipeline.analysis.report import drawing, run_figures
from tests.support.planted import planted


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_curves_are_drawn_at_their_epochs(epochs, monkeypatch):
    """The step of an epoch's metrics is its number, from 1; they were drawn one epoch late."""
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    study = planted(models=("m1",), blocks=1)
    shorter = study.history[study.history["step"] <= epochs]
    run_figures.curves(estimate(study), shorter)
    (axes,) = [ax for ax in kept[0].axes if ax.get_visible()]
    assert {tuple(line.get_xdata()) for line in axes.lines} == {tuple(range(1, epochs + 1))}
    kept[0].draw_without_rendering()
    low, high = axes.get_xlim()
    shown = [float(label.get_text()) for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert shown and all(value.is_integer() for value in shown), "there is no half epoch"


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1.7976931348623157e308])
def test_the_curve_of_a_diverged_run_has_no_point(value):
    """MLflow keeps an infinite loss as the largest number; the axis would have to reach it."""
    study = planted(models=("m1",), blocks=2)
    effects = estimate(study)
    for hit in (study.history.index == 0, study.history.index >= 0):  # one point, and all
        history = study.history.assign(value=study.history["value"].where(~hit, value))
        drawn = run_figures.curves(effects, history)
        assert (drawn is None) == hit.all()


def test_the_figure_has_what_launching_bounds_beside_idle_time(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig.axes[0]) or "")
    effects = estimate(planted(blocks=2, launch_bound=0.7))
    run_figures.budget_bars(time_budget.budgets(effects), effects)
    bars = {c.get_label(): [path.get_extents() for path in c.get_paths()] for c in kept[0].collections}
    assert len(bars["launch-bound"]) == len(bars["idle"]) == 8
    first = bars["launch-bound"][0]
    assert first.width == pytest.approx(0.7 * 0.83)
    assert [box.x1 for box in bars["launch-bound"]] == pytest.approx([box.x0 for box in bars["idle"]])
    assert first.height < bars["idle"][0].height / 2


def test_without_the_fraction_no_bar_is_launch_bound(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig.axes[0]) or "")
    effects = estimate(planted(blocks=2))
    figure = run_figures.budget_bars(time_budget.budgets(effects), effects)
    assert "launch" not in figure.alt + figure.caption
    assert "launch-bound" not in {c.get_label() for c in kept[0].collections}
    assert run_figures.budget_bars([], effects) is None


def test_the_order_of_runs_marks_the_tainted_ones(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig.axes[0]) or "")
    study = planted(blocks=2, drift=0.2, noise=0.001)
    study.runs.loc[3, "tags.ablate.tainted"] = "neighbour"
    figure = run_figures.run_order_figure(trust.examine(tidy(study), frozenset()))
    (tainted,) = [line for line in kept[0].lines if line.get_label() == "tainted"]
    assert len(tainted.get_xdata()) == 1
    assert figure.alt.startswith("16 runs;") and "Drift over a block: +2" in figure.caption


def test_the_time_budget_has_a_panel_for_each_group(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    effects = estimate(planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=1))
    run_figures.budget_bars(time_budget.budgets(effects), effects)
    shown = [ax for ax in kept[0].axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == ["m1 / d1", "m1 / d2", "m2 / d1", "m2 / d2"]
    assert not [c for ax in shown for c in ax.collections if c.get_hatch()]
    labels = [label.get_text() for label in shown[0].get_yticklabels()]
    assert set(labels) == {"baseline", "ga", "amp", "pm", "amp+pm", "ga+amp", "ga+pm", "ga+amp+pm"}
