"""Figures of effects."""

from itertools import pairwise

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
