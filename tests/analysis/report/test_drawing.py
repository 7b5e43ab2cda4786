"""Figures as inline SVG."""

import re

from pipeline.analysis.report import figures


def test_every_figure_follows_the_page_colours(written):
    built, _, _ = written
    drawings = figures.draw_figures(built)
    assert [d.key for d in drawings] == ["forest", "interactions", "budget", "pareto", "curves", "order"]
    for figure in drawings:
        hard = set(re.findall(r"#[0-9a-f]{6}\b", figure.svg)) - {"#000000"}
        assert not hard, (figure.key, hard)
        assert "var(--" in figure.svg
        assert len(figure.alt) > 20
