"""Rich's console shows text as it is."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from pipeline.console import make_console
from pipeline.streams import Screen, Sink

ODD = "[red]x[/red] :snowman: \x1b]8;;http://evil\x07 \u202e http://me:secret@host/"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(stream: io.StringIO) -> str:
    """A table with odd text in every place, on a stream."""
    console = make_console(Screen(Sink(stream, 1)), width=300)
    table = Table(title=ODD)
    table.add_column(ODD)
    table.add_row(ODD)
    table.add_row(Text(ODD))
    console.print(table)
    console.print(ODD)
    return stream.getvalue()


def test_text_is_no_markup_and_nothing_for_the_terminal() -> None:
    text = drawn(io.StringIO())
    assert text.count("[red]x[/red] :snowman: \\x1b]8;;http://evil\\x07 \\u202e http://host/") == 4
    assert "\x1b" not in text and "\u202e" not in text


def test_on_a_terminal_only_richs_own_sequences_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = drawn(Terminal())
    assert "\x1b[1m" in text and "\x1b]" not in text and "\u202e" not in text


@pytest.mark.parametrize("columns", ["0", "1", "-5", "x", "²", "1000000000", "99"])
def test_no_width_breaks_a_table(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    console = make_console(Terminal())
    assert console.width == 99 if columns == "99" else 40 <= console.width <= 400
    console.print(Table("a", "b"))


def test_an_encoding_without_lines_gets_plain_ones() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    table = Table("a")
    table.add_row("–")
    make_console(Screen(Sink(stream, 1))).print(table)
    stream.flush()
    assert "\\u" not in raw.getvalue().decode("ascii") and "| - |" in raw.getvalue().decode("ascii")
