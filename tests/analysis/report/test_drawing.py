"""Figures as inline SVG."""

import re

from pipeline.analysis.report import drawing


def a_figure(key="k"):
    fig, (ax,) = drawing.figure(3, 2)
    ax.plot([0, 1], [0, 1], color=drawing.SERIES[0], label="line", marker="o")
    ax.set_xlabel(drawing.plain("cost in $ and $"))
    drawing.legend(ax)
    return drawing.render(fig, key, "A <title>", "What & how")


def test_every_figure_follows_the_page_colours(written):
    _, out, _ = written
    figures = re.findall(r"<svg .*?</svg>", (out / "report.html").read_text(), flags=re.DOTALL)
    assert len(figures) >= 6
    for svg in figures:
        hard = set(re.findall(r"#[0-9a-f]{6}\b", svg)) - {"#000000"}
        assert not hard, (svg[:100], hard)
        assert "var(--" in svg
        assert len(re.search(r"<desc[^>]*>(.*?)</desc>", svg, flags=re.DOTALL).group(1)) > 20


def test_a_figure_is_one_element_with_its_words_and_no_outside_reference():
    svg = a_figure()
    assert svg.startswith("<svg ") and svg.rstrip().endswith("</svg>")
    assert "A &lt;title&gt;</title>" in svg and "What &amp; how</desc>" in svg
    assert "http" not in svg and "<metadata" not in svg and "<!--" not in svg
    assert "cost in $ and $" in svg, "a name with dollar signs is no mathematics"
    assert "var(--s1)" in svg


def test_equal_figures_are_equal_and_two_keys_share_no_id():
    assert a_figure() == a_figure()
    ids = [set(re.findall(r'id="([^"]+)"', a_figure(key))) for key in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r"url\(#([^)]+)\)", a_figure("one"))) | set(re.findall(r'href="#([^"]+)"', a_figure("one")))
    assert used <= ids[0]


def test_the_width_of_labels_is_that_of_the_longest():
    assert drawing.text_width([]) == 0
    assert drawing.text_width(["a", "abcd"]) == drawing.text_width(["abcd"]) == 4 * drawing.text_width(["a"])
