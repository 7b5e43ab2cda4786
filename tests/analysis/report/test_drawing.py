"""Figures as inline SVG."""

import os
import re
import subprocess
import sys

import pytest

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


def test_no_environment_changes_or_prevents_a_figure(tmp_path):
    script = (
        "from pipeline.analysis.report import drawing\n"
        "with drawing.own_style():\n"
        "    fig, (ax,) = drawing.figure(3, 2)\n"
        "    ax.plot([0, 1], [0, 1])\n"
        "    print(drawing.render(fig, 'k', 'title', 'alt')[:4])\n"
    )
    (tmp_path / "matplotlibrc").write_text("backend: nonsense\nfont.size: large\nno such key: 3\n")
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": "/proc/x"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "<svg\n", "")
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "OutsideError: Matplotlib cannot be loaded (UnicodeDecodeError" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.2, 4.0, {0.5, 1.0, 2.0}), (0.05, 20.0, {0.1, 1.0, 10.0}), (0.9, 1.1, {0.9, 1.0, 1.1}), (0.3, 1.05, {0.5, 1.0})],
)
def test_an_axis_of_ratios_has_numbers_on_both_sides_of_one(low, high, wanted):
    ticks = drawing.ratio_ticks(low, high)
    assert wanted <= set(ticks) and 3 <= len(ticks) <= 9
    assert ticks == sorted(ticks) and low <= ticks[0] and ticks[-1] <= high


def test_an_enormous_axis_has_few_ticks():
    ticks = drawing.ratio_ticks(1e-9, 1e12)
    assert len(ticks) <= 9 and 1.0 in ticks
