"""Figures of effects."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.report import drawing, effect_figures
from tests.support.planted import planted


@pytest.mark.parametrize("name", ["pm", "channels_last", "non_blocking_only"])
def test_names_under_the_figure_of_interactions_are_whole_and_apart(name, monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    effect_figures.interactions(estimate(planted(blocks=1, techniques=("ga", name, "amp", f"x{name}"))))
    (fig,) = kept
    fig.draw_without_rendering()
    for row in (fig.axes[:3], fig.axes[3:]):
        boxes = [label.get_window_extent() for ax in row for label in ax.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert boxes[0].x0 > 0 and boxes[-1].x1 < fig.bbox.x1 and min(box.y0 for box in boxes) > 0
    above, below = (ax.get_window_extent() for ax in (fig.axes[0], fig.axes[3]))
    assert min(label.get_window_extent().y0 for label in fig.axes[0].get_xticklabels()) > below.y1 < above.y0


def test_the_front_is_what_no_other_point_dominates():
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [2.0, 3.0], [3.0, 3.0], [1.0, 3.0]])
    assert effect_figures.front(points).tolist() == [True, True, True, False, False, True]


def test_a_forest_has_a_row_per_estimate_and_says_what_it_leaves_out(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig.axes[0]) or "")
    rows = pd.DataFrame({"estimate": [0.5, np.nan] + [2.0] * 50, "low": 0.4, "high": 2.5, "verdict": "undecided"})
    figure = effect_figures.forest_of("k", "t", rows, [f"r{i}" for i in range(52)], "Caption.")
    assert figure.caption == "Caption. The first 42 of 51 rows; effects.csv has them all."
    assert figure.alt.startswith("r0: 2.000 (0.400 to 2.500); r2: 0.500")
    assert [label.get_text() for label in kept[0].get_yticklabels()][:2] == ["r0", "r2"]
    assert effect_figures.forest_of("k", "t", rows[1:2], ["r1"], "") is None


def drawn_by(draw, monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    return draw(), kept[0]


def test_labels_leave_out_what_all_share_and_the_title_has_it_once(monkeypatch):
    drawing_, fig = drawn_by(lambda: effect_figures.forest(estimate(planted(blocks=2, models=("m",)))), monkeypatch)
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert drawing_.title == "Speed-ups: m / digits" and labels == ["ga", "amp", "pm", "ga+amp+pm"]
    study = planted(blocks=2, models=("m", "n"))
    drawing_, fig = drawn_by(lambda: effect_figures.forest(estimate(study)), monkeypatch)
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert drawing_.title == "Speed-ups: digits" and "amp, m" in labels and "amp, n" in labels


def test_a_slowdown_has_ticks_around_it(monkeypatch):
    truth = {"amp": np.log(4.0)}
    _, fig = drawn_by(lambda: effect_figures.forest(estimate(planted(blocks=3, truth=truth))), monkeypatch)
    ticks = fig.axes[0].get_xticks()
    assert 1.0 in ticks and sum(tick < 1 for tick in ticks) >= 3


def test_interactions_are_speeds_over_both_off_with_intervals(monkeypatch):
    truth = {"ga": np.log(0.5), "amp": np.log(0.5)}
    study = planted(blocks=3, techniques=("ga", "amp"), truth=truth, noise=0.01)
    figure, fig = drawn_by(lambda: effect_figures.interactions(estimate(study)), monkeypatch)
    off, on = (line.get_ydata() for line in fig.axes[0].lines[1:3])
    assert list(off) == pytest.approx([1.0, 2.0], rel=0.05) and list(on) == pytest.approx([2.0, 4.0], rel=0.05)
    assert len(fig.axes[0].collections) == 2 and "95 % intervals" in figure.caption
    alone, _ = drawn_by(lambda: effect_figures.interactions(estimate(planted(blocks=1))), monkeypatch)
    assert "no intervals" in alone.caption
