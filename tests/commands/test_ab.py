"""`ablate ab` through the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.ablate import ablate_in_process, ended, start_ablate
from tests.support.commands import assert_refused

QUICK = ("--min-pairs", "4", "--max-pairs", "4", "--warmups", "0")


def cost(value: str) -> str:
    """A command line that prints about so much."""
    return f"sh -c 'printf \"METRIC cost=%s%04d\\n\" {value} $(($$ % 10))'"


def test_worse_is_exit_code_1_and_everything_is_in_the_document(tmp_path: Path) -> None:
    done = ablate_in_process("ab", cost("1."), cost("2."), "--metric", "cost", *QUICK, "--json", cwd=tmp_path)
    assert done.code == 1, done.err
    document = json.loads(done.out)
    assert document["verdict"] == "worse" and document["metric"] == "cost" and document["pairs"] == 4
    assert 1.9 < document["low"] <= document["ratio"] <= document["high"] < 2.1
    assert len(document["a"]) == len(document["b"]) == len(document["b_first"]) == 4
    assert done.err.startswith("4 pairs: cost of B / A ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((cost("2."), cost("1.")), "B is better than A by 50.0%"),
        ((cost("1."), cost("2."), "--better", "higher"), "B is better than A by 50.0%"),
        ((cost("1."), cost("1.")), "no difference: within 1.0% of each other"),
        ((cost("1."), cost("1.02"), "--margin", "0.05"), "B is not worse than A by more than 5.0%"),
    ],
)
def test_otherwise_it_is_0(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = ablate_in_process("ab", *words, "--metric", "cost", *QUICK, cwd=tmp_path)
    assert done.code == 0 and done.out.splitlines()[-1].startswith(said), done.out + done.err
    assert list(tmp_path.iterdir()) == []


def test_wall_time(tmp_path: Path) -> None:
    done = ablate_in_process("ab", "sleep 0.05", "sleep 0.2", *QUICK, cwd=tmp_path)
    assert done.code == 1 and "B is slower than A by" in done.out


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("true",), ("COMMAND_B",)),
        (("nonsense", "true"), ("COMMAND_A", "nonsense", "allowed")),
        (("true", "'"), ("COMMAND_B", "allowed")),
        (("true", "true", "--metric", "a b"), ("--metric", "allowed")),
        (("true", "true", "--better", "higher"), ("--better", "--metric")),
        (("true", "true", "--max-pairs", "3"), ("--max-pairs", "8")),
        (("true", "true", "--margin", "2"), ("--margin", "0<=x<=1")),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    words: tuple[str, ...], fragments: tuple[str, ...], tmp_path: Path
) -> None:
    assert_refused(ablate_in_process("ab", *words, cwd=tmp_path), fragments, tmp_path)


def test_a_command_that_fails_is_3(tmp_path: Path) -> None:
    done = ablate_in_process("ab", "true", "sh -c 'echo out of luck >&2; exit 7'", cwd=tmp_path)
    assert (done.code, done.err) == (3, "ablate: command B failed with exit status 7: out of luck\n")


def test_an_interruption_ends_the_command_too(tmp_path: Path) -> None:
    process = start_ablate("ab", f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300'", "true", cwd=tmp_path)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert ended(process, 30).code == 130
    assert not Path("/proc", (tmp_path / "pid").read_text().strip(), "exe").exists()
