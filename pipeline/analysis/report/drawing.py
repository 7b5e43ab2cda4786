"""Matplotlib figures as inline SVG that follows the page's colours.

A figure is drawn with placeholder colours that are then replaced by CSS variables, so one drawing is legible
on a light and on a dark page and in print. Text stays text. No pyplot, no global state, no date: equal data
give equal bytes.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from pipeline.errors import OutsideError, first_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FG, MUTED, GRID, BG = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0a000{i}" for i in range(1, 9))
GOOD, BAD, NEUTRAL = "#0b0001", "#0b0002", "#0b0003"
WIDTH = 11.0  # inches of a figure, which the page shows at its full width
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_PLACES = re.compile(r' (?:d|x|y|x1|x2|y1|y2|transform)="[^"]*"')
_DIGITS = re.compile(r"(\.\d\d)\d+")

VARIABLES = {
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
        figure: The drawing itself, for files in other formats.
    """

    key: str
    title: str
    svg: str
    alt: str
    caption: str
    figure: Figure | None = field(default=None, repr=False, compare=False)


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
    return max((len(label) for label in labels), default=0) * size * 0.6 / 72


def figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    left: float = 0.75,
    bottom: float = 0.55,
    top: float = 0.15,
    right: float = 0.15,
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
        right: Margin for what stands beside the rows.
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
        (width - left - right - gap[0] * (columns - 1)) / columns,
        (height - top - bottom - gap[1] * (rows - 1)) / rows,
    )
    fig.subplots_adjust(
        left=left / width,
        right=1 - right / width,
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


def ratio_text(value: float, digits: int = 3) -> str:
    """Writes a ratio; the end of an interval that says nothing is not written digit by digit.

    Examples:
        >>> ratio_text(1.2345), ratio_text(5567101.5)
        ('1.234', '> 1000')
    """
    return "> 1000" if value > 1000 else f"{value:.{digits}f}"


def ratio_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Chooses plain numbers for a logarithmic axis of ratios; 1 is among them where the axis has it.

    Args:
        low: Lower end of the axis, above 0.
        high: Upper end.
        most: Number of ticks there is room for.

    Examples:
        >>> ratio_ticks(0.6, 1.6)
        [0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5]
        >>> ratio_ticks(0.2, 4)
        [0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0]
        >>> ratio_ticks(0.97, 1.04)
        [0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04]
    """
    for step in (0.01, 0.02, 0.05):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(i * step, 2) for i in range(first, last + 1)]
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for parts in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 5, 7), (1, 2, 5)):
        found = [float(f"{part}e{decade}") for decade in decades for part in parts]
        found = [tick for tick in found if low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found
    stride = math.ceil(len(decades) / most)
    return [10.0**decade for decade in decades if decade % stride == 0 and low <= 10.0**decade <= high]


def ratio_axis(axis: Any, low: float, high: float) -> None:
    """Makes an axis logarithmic, from `low` to `high`, with plain numbers at `ratio_ticks`."""
    from matplotlib.ticker import NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    ticks = ratio_ticks(low, high)
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def drawn(fig: Figure, key: str, title: str, alt: str, caption: str) -> Drawing:
    """Makes a figure a part of the report."""
    return Drawing(key, title, render(fig, key, title, alt), alt, caption, fig)


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
    # a hundredth of a point is enough, and a third of the size
    body = _PLACES.sub(lambda found: _DIGITS.sub(r"\1", found.group()), body)
    for colour, variable in VARIABLES.items():
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
