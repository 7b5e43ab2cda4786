"""Matplotlib figures as inline SVG that follows the page's colours.

A figure is drawn with placeholder colours that are then replaced by CSS variables, so one drawing is legible
on a light and on a dark page and in print. Text stays text. No pyplot, no global state, no date: equal data
give equal bytes.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from pipeline.errors import OutsideError, first_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FG, MUTED, GRID, BG = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0a000{i}" for i in range(1, 9))
GOOD, BAD, NEUTRAL = "#0b0001", "#0b0002", "#0b0003"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_VARIABLES = {
    FG: "--fg",
    MUTED: "--muted",
    GRID: "--grid",
    BG: "--bg",
    **{c: f"--s{i}" for i, c in enumerate(SERIES, 1)},
    GOOD: "--good",
    BAD: "--bad",
    NEUTRAL: "--neutral",
}


@dataclass(frozen=True)
class Drawing:
    """One figure of the report.

    Attributes:
        key: Short name, unique in the page.
        title: Title for people.
        svg: The figure as an inline SVG element.
        alt: What it shows, in words, for those who do not see it.
        caption: How to read it.
    """

    key: str
    title: str
    svg: str
    alt: str
    caption: str


def load_matplotlib() -> None:
    """Imports what drawing needs, which takes seconds; whatever the environment says, nothing here asks for a window.

    Raises:
        OutsideError: Matplotlib cannot be imported.
    """
    # it refuses to be imported with a backend that it does not know, such as the one that a notebook hands down
    os.environ.pop("MPLBACKEND", None)
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # a home that cannot be written, a wrong line of a matplotlibrc
    try:
        from matplotlib.backends import backend_agg, backend_svg  # noqa: F401
    except Exception as error:  # it reads a matplotlibrc of the working folder, which may hold anything
        raise OutsideError(f"Matplotlib cannot be loaded ({type(error).__name__}: {first_line(error)})") from error


@contextmanager
def own_style() -> Iterator[None]:
    """Draws with Matplotlib's defaults: neither a user's matplotlibrc nor another library's style is in a report."""
    load_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def text_width(labels: Sequence[str], size: float = 9.0) -> float:
    """Estimates the width in inches of the longest of some labels (points per em x mean glyph width)."""
    return max((len(label) for label in labels), default=0) * size * 0.56 / 72


def figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    left: float = 0.75,
    bottom: float = 0.55,
    top: float = 0.15,
    gap: tuple[float, float] = (0.6, 0.45),
    **kwargs: Any,
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a grid of axes in the placeholder colours.

    The margins are given instead of found by a layout engine: that engine draws every figure three times,
    which is most of the time of a report.

    Args:
        width: Width of the whole figure, inches, as all lengths here.
        height: Height of the whole figure.
        rows: Number of axes one above the other.
        columns: Number of axes side by side.
        left: Margin for the labels of the y axis.
        bottom: Margin for the labels of the x axis and the legend.
        top: Margin for the titles.
        gap: Between axes, horizontally and vertically.
        **kwargs: Further arguments of `Figure.subplots`.

    Returns:
        The figure and its axes, flattened row by row.
    """
    load_matplotlib()
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height))
    axes = list(fig.subplots(rows, columns, squeeze=False, **kwargs).flat)
    inner = (
        (width - left - 0.15 - gap[0] * (columns - 1)) / columns,
        (height - top - bottom - gap[1] * (rows - 1)) / rows,
    )
    fig.subplots_adjust(
        left=left / width,
        right=1 - 0.15 / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=gap[0] / inner[0],
        hspace=gap[1] / inner[1],
    )
    for ax in axes:
        ax.set_facecolor("none")
        for name, spine in ax.spines.items():
            spine.set_color(GRID)
            spine.set_visible(name in ("left", "bottom"))
        ax.tick_params(colors=MUTED, labelcolor=FG, labelsize=9)
        for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
            label.set_color(FG)
            label.set_fontsize(10)
    return fig, axes


def legend(owner: Any, **kwargs: Any) -> None:
    """Adds a legend without a frame in the page's text colour."""
    owner.legend(frameon=False, fontsize=9, labelcolor=FG, **kwargs)


def plain(value: str) -> str:
    """Keeps a name from being read as mathematics by Matplotlib (a pair of dollar signs)."""
    return value.replace("$", r"\$")


def render(fig: Figure, key: str, title: str, alt: str) -> str:
    """Writes a figure as an accessible inline SVG element.

    Args:
        fig: The figure, drawn in the placeholder colours.
        key: Unique in the page; it salts the ids, so that two figures never share one.
        title: Short name.
        alt: What the figure shows, for screen readers.

    Returns:
        One `<svg>` element with no outside reference.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    fig.patch.set_visible(False)
    buffer = io.StringIO()
    settings: Any = {"svg.hashsalt": key, "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        canvas: Any = FigureCanvasSVG(fig)
        canvas.print_svg(buffer, metadata={"Date": None})
    body = buffer.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    # Ids of clip paths and markers are hashes of shapes alone: two figures can share them, so the key goes
    # in front.
    body = re.sub(r'id="([^"]+)"', rf'id="{key}-\1"', body)
    body = re.sub(r"url\(#", f"url(#{key}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{key}-', body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None  # Matplotlib always writes one
    label = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(alt)}</desc>'
    width = float(box.group(1).split()[2])
    head = (
        f'<svg class="figure" role="img" aria-labelledby="{key}-title {key}-desc" viewBox="{box.group(1)}" '
        f'style="width:100%;max-width:{1.4 * width:.0f}px">'
    )
    return head + label + body[body.index(">") + 1 :]
