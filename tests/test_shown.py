"""What may be shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shown import counted, markdown_cell, printable, printable_lines, redacted, spreadsheet_cell


@given(st.text())
def test_nothing_printed_moves_a_cursor_or_turns_the_direction(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert printable(shown) == shown
    shown.encode()


def test_words_stay_as_they_are() -> None:
    assert printable("café 日本 😀 1\xa0000") == "café 日本 😀 1\xa0000"
    assert printable("a\x1b[2Jb\u202ec\nd") == "a\\x1b[2Jb\\u202ec\\nd"
    assert printable_lines("a\nb\r") == "a\nb\\r"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p/w#a?b@c@host/db", "postgresql://host/db"),
        ("cannot reach 'http://u:p@[::1/x': refused", "cannot reach 'http://[::1/x': refused"),
        ("mysql://h/db?user=u&password=hush&x=1", "mysql://h/db?user=u&password=***&x=1"),
        ("mail a@b.c, no address", "mail a@b.c, no address"),
    ],
)
def test_no_address_tells_its_password(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_sees_text(text: str) -> None:
    assert spreadsheet_cell(text) == "'" + text and spreadsheet_cell("1=2") == "1=2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("[x](javascript:alert(1))", "\\[x\\](javascript:alert(1))"),
        ("`code` <b>\n# title", "\\`code\\` &lt;b> # title"),
        ("test_resnet/ga+amp \x1b", "test_resnet/ga+amp \\\\x1b"),
    ],
)
def test_text_in_markdown_is_text(text: str, shown: str) -> None:
    assert markdown_cell(text) == shown


def test_what_is_counted_has_its_plural() -> None:
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
