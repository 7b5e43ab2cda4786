"""Errors that end a command: their exit codes, and texts that fit on one line and give nothing away."""

from __future__ import annotations

import pytest

from pipeline.errors import AblateError, InputError, OutsideError, first_line, not_allowed, suggest
from pipeline.shown import redacted


def test_each_kind_has_its_exit_code() -> None:
    assert (AblateError.exit_code, InputError.exit_code, OutsideError.exit_code) == (1, 2, 3)
    assert issubclass(InputError, AblateError) and issubclass(OutsideError, AblateError)


def test_a_refusal_names_field_value_and_what_is_allowed() -> None:
    error = not_allowed("seeds", 0, "1 to 9")
    assert isinstance(error, InputError) and str(error) == "seeds: 0 is not allowed; allowed: 1 to 9"
    assert "thousands of digits" in str(not_allowed("seeds", 10**5000, "1 to 9"))
    assert str(not_allowed("name", "x" * 500, "less")) == f"name: '{'x' * 76}... is not allowed; allowed: less"


def test_the_nearest_name_is_suggested() -> None:
    assert suggest("restnet", ["vit", "resnet"]) == "vit, resnet (did you mean resnet?)"
    assert suggest("???", ["vit", "resnet"]) == "vit, resnet"
    assert suggest("???", ["a", "b", "c"], shown=2) == "a, b, ..."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no route to http://me:secret@db:5000/x", "no route to http://db:5000/x"),
        ("a://me:p@ss@h/1 and b://you@h", "a://h/1 and b://h"),
        ("mail me@home about c:///h/a@b", "mail me@home about c:///h/a@b"),
        ("", ""),
    ],
)
def test_no_credentials_are_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  one\ntwo"), "one"),
        (KeyError(), "KeyError"),
        (OSError("\n\n"), "OSError"),
        (RuntimeError("at pg://me:secret@h\nmore"), "at pg://h"),
        (RuntimeError("x" * 1000), "x" * 300),
    ],
)
def test_the_first_line_of_an_error(error: BaseException, line: str) -> None:
    assert first_line(error) == line


def test_credentials_that_the_limit_would_cut_in_two_are_gone_too() -> None:
    assert first_line(RuntimeError("http://me:secret@host/" + "x" * 50), limit=14) == "http://host/xx"
