"""Figures as files: SVG, PNG and PDF, each in the colours of the light page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pipeline.analysis.report.drawing import VARIABLES, Drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 200  # of a PNG
_COLOUR = re.compile(r"(--[a-z0-9-]+):\s*(#[0-9a-f]{3,6})\b")


@lru_cache(maxsize=1)
def _light() -> Mapping[str, str]:
    """The colours of the light page: name of the CSS variable -> hexadecimal colour."""
    css = files("pipeline.analysis.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return dict(_COLOUR.findall(css[: css.index("@media")]))


def standalone_svg(svg: str) -> str:
    """Makes an inline SVG a file of its own: with its name space and the light page's colours."""
    for name, colour in _light().items():
        svg = svg.replace(f"var({name})", colour)
    head, body = svg.split(">", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    style = f"svg {{ background: {_light()['--bg']}; }} text {{ fill: {_light()['--fg']}; }}"
    return f"{head}><style>{style}</style>{body}\n"


def figure_files(drawings: Sequence[Drawing]) -> dict[str, bytes]:
    """Writes figures as `KEY.svg`, `KEY.png` and `KEY.pdf`.

    Args:
        drawings: The figures. Their colours are the page's afterwards, so the page is written first.

    Returns:
        File name -> content; equal figures give equal bytes.
    """
    found = {}
    for each in drawings:
        found[f"{each.key}.svg"] = standalone_svg(each.svg).encode()
        if each.figure is not None:
            _paint(each.figure)
            for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Title": each.title})):
                found[f"{each.key}.{kind}"] = _printed(each.figure, kind, metadata)
    return found


def _printed(fig: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format=kind, dpi=PIXELS_PER_INCH, metadata=metadata, facecolor=_light()["--bg"])
    return buffer.getvalue()


def _paint(fig: Figure) -> None:
    """Replaces the placeholder colours of everything in a figure by the light page's."""
    from matplotlib.colors import to_hex, to_rgba_array

    colours = {placeholder: _light()[name] for placeholder, name in VARIABLES.items()}
    fig.patch.set_visible(True)
    for artist in fig.findobj():
        for name in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if get is None or put is None:
                continue
            value = get()
            if isinstance(value, str) and value in ("none", "auto"):
                continue
            before = [to_hex(each) for each in to_rgba_array(value)]
            if any(each in colours for each in before):
                after = [colours.get(each, each) for each in before]
                put(after[0] if len(after) == 1 else after)
