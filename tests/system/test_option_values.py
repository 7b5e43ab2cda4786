"""Every option of every command gets what nobody should type: one line on standard error and exit code 2, soon."""

from __future__ import annotations

import time
from pathlib import Path

import click
import pytest

from pipeline import cli
from tests.support.ablate import ablate_in_process

COMMON = [
    "",
    " ",
    "nan",
    "-1",
    "0",
    "1e400",
    "9" * 5000,
    "\udc80",
    "../x",
    "/",
    "a\nb",
    "\x1b[2J",
    "http://u:secret@[::1/x",
]
RARE = [
    *(
        "inf",
        "-inf",
        "-0",
        "1_0",
        "１２",
        "0x10",
        "064",
        "1:30",
        "5px",
        ".",
        "\u202eabc",
        "http://h:99999",
        "file:///x",
    ),
    *(
        "=",
        "a=",
        "=a",
        "ga=",
        "ga=nan",
        "ga=１２",
        "epochs=",
        "epochs=.nan",
        "imagefolder:~nosuchuser/x",
        "sqlite:///../x/\udc80.db",
    ),
    *("postgresql://u:secret@[::1/x", ",", "a,,b", "null", "yes", "{}", "*", "%s", "--"),
]
CELL = ("--study", "quickstart", "--device", "cpu", "--dry-run")
ONE = ("--model", "test_resnet", "--dataset", "digits", *CELL)
# what is not a dry run is refused at its end for something else, so that a value that is allowed starts nothing
BASES: dict[str, tuple[str, ...]] = {
    "grid": ("--models", "test_resnet", "--datasets", "digits", *CELL),
    "run": ONE,
    "speed": ("--models", "test_resnet", "--datasets", "digits", *CELL),
    "tune": (*ONE, "--batch-sizes", "64", "--accumulation", "1"),
    "ab": ("nonsense", "nonsense"),
    "bench": ("--models", "nonsense"),
    "compare": ("nonsense", "nonsense"),
    "clean": ("--dry-run",),
    "delete": ("nonsense",),
    "rename": ("nonsense", "new"),
    "data prepare": ("nonsense",),
    "data verify": ("nonsense",),
}


def parameters() -> list[tuple[str, str]]:
    """(words of a command, option or empty for its argument) of everything that takes a value."""
    found = []
    for name, command in cli.cli.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        for sub, each in inner.items():
            for parameter in each.params:
                if isinstance(parameter, click.Argument):
                    found.append((f"{name} {sub}".strip(), ""))
                elif isinstance(parameter, click.Option) and not parameter.is_flag:
                    found.append((f"{name} {sub}".strip(), parameter.opts[0]))
    return found


@pytest.mark.parametrize(
    "values", [pytest.param(COMMON, id="common"), pytest.param(RARE, id="rare", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("command", "option"), parameters())
def test_a_value_is_what_it_looks_like_or_refused_in_one_line(
    command: str, option: str, values: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.doctor._torch", list)  # a process of seconds
    for value in values:
        base = () if not option and command in BASES else BASES.get(command, ())
        words = [*command.split(), *base, *([option, value] if option else ["--", value, *base[1:]])]
        began = time.process_time()
        found = ablate_in_process(*words, cwd=tmp_path)
        took = time.process_time() - began  # not the clock: other tests have the processor, too
        told = f"{' '.join(command.split())} {option} {value[:60]!r}: exit {found.code} after {took:.1f} s\n{found.err}"
        assert took < 10, told
        assert "Traceback" not in found.err, told
        addresses = ("--tracking-uri", "--tracking-uri-b", "--storage", "--address")
        assert option not in addresses or "secret" not in found.out + found.err, told
        assert not any(character in found.out + found.err for character in "\x1b\u202e\udc80"), told
        assert found.code in (0, 2) or command == "doctor", told
        assert found.code == 0 or command == "doctor" or len(found.err.splitlines()) == 1, told
    assert not (tmp_path / "mlruns").exists() and not (tmp_path.parent / "x").exists(), "nothing is made"


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        *(
            ((command, option, value), False)
            for value in ("nan", "inf", "1_0", "１２", "1e400", " 5")
            for command, option in (
                ("grid", "--timeout"),
                ("grid", "--interval-width"),
                ("grid", "--precision"),
                ("grid", "--target-accuracy"),
                ("tune", "--memory-limit"),
                ("tune", "--trial-seconds"),
                ("tune", "--timeout"),
                ("tune", "--budget-samples"),
                ("report", "--margin"),
                ("report", "--accuracy-margin"),
                ("report", "--memory-limit"),
                ("ui", "--port"),
            )
        ),
        (("grid", "--timeout", "1e10"), False),
        (("grid", "--seeds", "007"), True),
        (("grid", "--timeout", "1e3"), True),
        (("tune", "--budget-samples", "99999999999999999999"), False),
    ],
)
def test_numbers_are_decimal_and_finite(words: tuple[str, ...], allowed: bool, tmp_path: Path) -> None:
    found = ablate_in_process(words[0], *BASES.get(words[0], ()), *words[1:], cwd=tmp_path)
    assert found.code == (0 if allowed else 2)
    assert allowed or words[1] in found.line or words[1] == "--precision", found.err
    variable = "ABLATE_" + words[1][2:].upper().replace("-", "_")
    said = ablate_in_process(words[0], *BASES.get(words[0], ()), cwd=tmp_path, env={variable: words[2]})
    assert said.code == found.code, "the environment's numbers are the same numbers"
