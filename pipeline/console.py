"""Rich's console as every command uses it: text is shown as it is, whatever it contains."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pipeline.shown import printable_lines, redacted
from pipeline.streams import controls

_NARROWEST, _WIDEST = 40, 400


class ShownConsole(Console):
    """A console that takes no markup from text, and lets no control character of it pass."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """Makes text of a string: what would be markup is shown, what would act on a terminal is escaped."""
        return super().render_str(redacted(printable_lines(text)), **{**settings, "emoji": False, "markup": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders; only Rich's own control sequences stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)


def make_console(stream: TextIO | None = None, *, width: int = 110) -> Console:
    """Returns a console.

    Args:
        stream: where it draws; None for standard output.
        width: in columns, where that is no terminal.
    """
    stream = stream or sys.stdout
    file = controls(stream)
    columns, lines = shutil.get_terminal_size()
    if file.isatty():
        width = min(max(columns, _NARROWEST), _WIDEST)  # COLUMNS may say anything
    return ShownConsole(file=file, width=width, height=max(lines, 2), markup=False, emoji=False, highlight=False)
