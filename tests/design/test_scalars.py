"""What a written value is: the examples of YAML 1.2's core schema, and what YAML 1.1 makes of other words."""

from __future__ import annotations

import pytest

from pipeline.design import scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("64", 64), ("0", 0), ("0o17", 15), ("0x1F", 31), ("+5", 5), ("-3", -3), ("0.5", 0.5)),
        *((".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("1.5E-3", 0.0015), ("-0.0", 0.0)),
        *(("null", None), ("~", None), ("", None), ("true", True), ("FALSE", False)),
        # YAML 1.1: 90, 1000, booleans, dates, a binary number, merging; and digits of other scripts
        *((text, text) for text in ("1:30", "1_000", "yes", "on", "off", "n", "2020-01-01", "0b1", "<<", "=", "１２")),
        *((text, text) for text in ("tRUE", "1e", "e3", ".", "0x", "0o8", "1 000", "64px", "inf", "nan", "5\n")),
    ],
)
def test_a_scalar_is_what_the_core_schema_says(text: str, value: object) -> None:
    found = scalars.scalar(text)
    assert (found, type(found)) == (value, type(value)) and str(found) != "-0.0"


@pytest.mark.parametrize(
    "text", [".inf", "-.INF", ".NaN", "1e400", "064", "-017", "9" * 5000, "0x" + "f" * 5000, "1." + "0" * 5000]
)
def test_what_no_number_holds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        scalars.scalar(text)


@pytest.mark.parametrize("text", ["", " ", "1.0", "1e3", "0x10", "0o7", "1_0", "１", "nan", " 1", "1\n", "9" * 5000])
def test_an_option_takes_decimal_digits_alone(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        scalars.whole(text)
    assert (scalars.whole("007"), scalars.whole("-1"), scalars.finite("1e-3")) == (7, -1, 0.001)


@pytest.mark.parametrize("text", ["", " ", "a\nb", "a\0b", "\x1b[2J", "\udc80", "\u202eabc", "a\u2028b", "\x85"])
def test_a_text_has_one_line_and_is_what_is_seen(text: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        scalars.line(text)
    assert scalars.line("größer \U0001f468\u200d\U0001f469/x") == "größer \U0001f468\u200d\U0001f469/x"
