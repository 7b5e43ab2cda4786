"""Two commands in turn: what is found, what is not, and what a command may do."""

from __future__ import annotations

import math
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench.commands_in_turn import Contest, Measured, Standing, run_in_turn, stand, words_of
from pipeline.errors import InputError, OutsideError

TRUE = (("true",), ("true",))


def decided(contest: Contest, random: np.random.Generator, *, slower: float, noise: float = 0.01) -> Standing:
    """A comparison without processes: times with normal noise on the log scale."""
    measured = Measured()
    for look in contest.looks:
        while len(measured.b_first) < look.pairs:
            a, b = np.exp(random.normal(0.0, noise, 2))
            measured.values[0].append(float(a))
            measured.values[1].append(float(b * (1 + slower)))
            measured.b_first.append(False)
        standing = stand(contest, look, measured)
        if standing.verdict != "undecided":
            break
    return standing


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.1])
def test_of_200_comparisons_of_a_command_with_itself_at_most_5_percent_say_different(noise: float) -> None:
    random = np.random.default_rng(3)
    found = [decided(Contest(TRUE), random, slower=0.0, noise=noise).verdict for _ in range(200)]
    assert sum(verdict in ("worse", "better") for verdict in found) <= 10


def test_two_percent_at_one_percent_of_noise_are_found_in_8_pairs() -> None:
    random = np.random.default_rng(4)
    found = [decided(Contest(TRUE), random, slower=0.02) for _ in range(200)]
    assert np.median([standing.pairs for standing in found]) == 8
    assert sum(standing.verdict == "worse" and standing.pairs == 8 for standing in found) >= 0.85 * 200
    assert all(standing.verdict == "worse" for standing in found)


def pairs(a: list[float], b: list[float]) -> Measured:
    return Measured((a, b), [False] * len(a))


NEAR = [1.0, 1.0001, 0.9999, 1.0]


@pytest.mark.parametrize(
    ("by", "settings", "verdict"),
    [
        (1.0, {}, "same"),
        (1.004, {}, "worse"),
        (0.99, {}, "better"),
        (1.03, {"margin": 0.02}, "worse"),
        (1.015, {"margin": 0.02}, "no worse"),
        (1.004, {"margin": 0.02}, "same"),
        (2.0, {"higher_is_better": True, "metric": "m"}, "better"),
        (0.5, {"higher_is_better": True, "metric": "m"}, "worse"),
    ],
)
def test_verdicts(by: float, settings: dict, verdict: str) -> None:
    contest = Contest(TRUE, first=4, last=4, **settings)
    standing = stand(contest, contest.looks[0], pairs(NEAR, [value * by for value in reversed(NEAR)]))
    assert standing.verdict == verdict
    cost = 1 / by if settings.get("higher_is_better") else by
    assert standing.low < standing.ratio < standing.high and math.isclose(standing.ratio, cost, rel_tol=1e-3)


def test_without_two_pairs_nothing_is_known() -> None:
    contest = Contest(TRUE)
    standing = stand(contest, contest.looks[0], pairs([1.0], [2.0]))
    assert standing.verdict == "undecided" and math.isnan(standing.ratio)


def test_both_run_equally_often_in_both_orders_and_see_what_they_are_given(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = tuple(("sh", "-c", f'echo {name} >> "$0"; echo METRIC cost=2', str(log)) for name in "AB")
    seen: list[Standing] = []
    contest = Contest((commands[0], commands[1]), metric="cost", first=8, last=8, warmups=2)
    standing, measured = run_in_turn(contest, seen.append)
    assert standing.verdict == "same" and standing.ratio == 1.0 and seen == [standing]
    lines = log.read_text().split()
    assert lines[:4] == ["A", "B", "A", "B"], "warm-ups, thrown away"
    told = ["BA" if b_first else "AB" for b_first in measured.b_first]
    assert "".join(lines[4:]) == "".join(told) and set(told) == {"AB", "BA"}
    assert measured.values == ([2.0] * 8, [2.0] * 8)


def test_when_time_is_over_what_there_is_counts() -> None:
    contest = Contest((("sleep", "0.05"), ("sleep", "0.15")), first=8, last=8, warmups=0)
    standing, measured = run_in_turn(contest, lambda _: None, time.monotonic() + 0.5)
    assert 2 <= standing.pairs == len(measured.b_first) < 8
    assert standing.verdict == "worse" and standing.ratio > 2


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo no data >&2; exit 3", "command A failed with exit status 3: no data"),
        ("kill -9 $$", "command A failed with signal 9"),
        ("printf 'a\\033[2J' >&2; exit 1", r"command A failed with exit status 1: a\\x1b"),
        ("echo METRIC other=1", "command A has not printed METRIC cost=VALUE"),
        ("echo METRIC cost=-1", "command A has printed METRIC cost=-1; allowed: above 0"),
        ("echo METRIC cost=nan", "command A has printed METRIC cost=nan"),
        ("echo METRIC cost=x", "command A has printed METRIC cost=nan"),
        ("sleep 60", "command A did not end within 0.5 s"),
    ],
)
def test_a_command_that_fails_ends_the_comparison_in_one_line(script: str, told: str) -> None:
    contest = Contest((("sh", "-c", script), ("true",)), metric="cost", timeout=0.5)
    with pytest.raises(OutsideError, match=told) as caught:
        run_in_turn(contest, lambda _: None)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_the_last_of_several_values_counts() -> None:
    words = ("sh", "-c", "echo METRIC cost=1; echo 'METRIC  cost=5 '; echo METRIC cost = 9; echo no METRIC cost=7")
    _, measured = run_in_turn(Contest((words, words), metric="cost", first=2, last=2), lambda _: None)
    assert measured.values == ([5.0, 5.0], [5.0, 5.0])


def test_nothing_of_a_command_outlives_it(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! >> {tmp_path}/pids; sleep 0.01"
    detached = script.replace("sleep 300 &", "sleep 300 >/dev/null 2>&1 &")
    run_in_turn(Contest((("sh", "-c", detached), ("true",)), first=2, last=2), lambda _: None)
    with pytest.raises(OutsideError, match="within"):
        run_in_turn(Contest((("sh", "-c", script), ("true",)), timeout=0.3), lambda _: None)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 4
    for pid in pids:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        assert state.stdout.strip()[:1] in ("", "Z"), pid


@pytest.mark.parametrize("text", ["", " ", "'", "''", "no-such-program x", "x" * 5000, "\0", "\udc80", "/"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^COMMAND_A: ") as caught:
        words_of(text, "COMMAND_A")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_words_are_those_of_a_shell() -> None:
    assert words_of("sh -c 'echo a | cat'", "COMMAND_A") == ("sh", "-c", "echo a | cat")


@pytest.mark.slow
def test_real_processes_against_themselves_are_seldom_different() -> None:
    """20 comparisons: one is expected to err; four of them would have a chance of 1.6 %."""
    words = ("sh", "-c", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done")
    found = [run_in_turn(Contest((words, words), seed=seed), lambda _: None)[0] for seed in range(20)]
    print([(standing.verdict, standing.pairs, round(standing.ratio, 4)) for standing in found], os.getloadavg())
    assert sum(standing.verdict in ("worse", "better") for standing in found) < 4
