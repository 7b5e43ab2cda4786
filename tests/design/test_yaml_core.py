"""YAML files: a value is what it looks like, or the file is refused in one line before it costs anything."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.design import yaml_core
from pipeline.errors import InputError


def test_scalars_are_those_of_the_core_schema() -> None:
    text = "[64, 1:30, yes, on, 0o17, 1_000, .5, 1e3, ~, 2020-01-01, '064', !!int 0o12, !!str 5, !!float 3]"
    assert yaml_core.load(text) == [
        *(64, "1:30", "yes", "on", 15, "1_000", 0.5, 1000.0, None, "2020-01-01", "064", 10, "5", 3.0),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("a: {b: 1, b: 2}", "duplicate key 'b'"),
        *((f"{key}: 1", "a key that is no text") for key in ("1", "true", "~", "[a]", "? {a: b}\n")),
        ("a: &x [1]\nb: *x", "alias"),
        *((f"a: {value}", "not a finite number") for value in (".nan", "-.inf", "1e400")),
        *((f"a: {value}", "400 characters") for value in ("9" * 5000, "0x" + "f" * 5000)),
        *((f"a: !!{tag} x", "the tag") for tag in ("timestamp", "binary", "set", "python/object/apply:os.system")),
        *((f"a: {value}", "without a leading zero") for value in ("064", "00", "-010", "!!int 010", "!!float 07")),
        ("a: !!int yes", "'yes', which is no int"),
        ("!!map 5", "not a mapping"),
        ('a: "x\\0y"', "NUL"),
        ('a: "\\ud800"', "surrogate"),
        ('"\\ud800": 1', "surrogate"),
        ("[" * 5000, "nested too deeply"),
        ("a: 1\n---\nb: 2", "another document"),
    ],
)
def test_what_could_mean_something_else_is_refused_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        yaml_core.read_file(file)
    message = str(caught.value)
    assert problem in message and "s.yaml" in message and "; allowed: " in message and "\n" not in message


@given(st.dictionaries(st.text(), st.text()))
def test_json_is_read_as_json(content: dict[str, str]) -> None:
    """What is above U+FFFF is a surrogate pair in JSON, which programs write study files in."""
    content = {key.replace("\0", ""): text.replace("\0", "") for key, text in content.items()}
    assert yaml_core.load(json.dumps(content)) == content


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert yaml_core.load("<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.timeout(20)
def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path) -> None:
    fifo, large, binary = tmp_path / "fifo.yaml", tmp_path / "large.yaml", tmp_path / "binary.yaml"
    os.mkfifo(fifo)
    with large.open("wb") as stream:
        stream.truncate(2**30)
    binary.write_bytes(b"a: \xff")
    for path, problem in (
        *(
            (fifo, "not a regular file"),
            (Path("/dev/zero"), "not a regular file"),
            (tmp_path, "folder|directory|regular"),
        ),
        *((large, "too large"), (binary, "not UTF-8"), (tmp_path / "none.yaml", "No such file"), (Path("a\0"), "null")),
    ):
        began = time.monotonic()
        with pytest.raises(InputError, match=problem):
            yaml_core.read_file(path)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "value",
    [
        *(
            "1e3",
            "0o7",
            "064",
            "1:30",
            "yes",
            "off",
            "~",
            "",
            "null",
            ".5",
            "=",
            "<<",
            "2020-01-01",
            "a\nb",
            "é",
            "0x1f",
        ),
        *(1e-5, 1e16, 5, True, None),
    ],
)
def test_what_is_written_is_read_again_by_every_reader(value: object) -> None:
    text = yaml_core.dump({"a": [value]})
    assert yaml_core.load(text) == yaml.safe_load(text) == {"a": [value]}
