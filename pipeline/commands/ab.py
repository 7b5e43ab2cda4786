"""`ablate ab`: does command B cost more than command A?"""

from __future__ import annotations

import json
import time
from typing import Any

from pipeline.bench.commands_in_turn import WALL, Contest, Measured, Standing, run_in_turn, words_of
from pipeline.commands.command_options import AbOptions
from pipeline.commands.output import stream_for_progress
from pipeline.errors import not_allowed
from pipeline.shown import redacted

WORSE = 1  # exit code


def run_ab(options: AbOptions) -> int:
    """Runs both commands in turn and says what B costs over A.

    Args:
        options: of the command.

    Returns:
        1 where B was shown to be worse than A by more than the margin, else 0.

    Raises:
        InputError: before anything runs.
        OutsideError: a command failed.
    """
    contest = contest_of(options)

    def note(standing: Standing) -> None:
        print(_look(contest, standing), file=stream_for_progress(options.as_json), flush=True)

    deadline = None if options.max_seconds is None else time.monotonic() + options.max_seconds
    standing, measured = run_in_turn(contest, note, deadline)
    if options.as_json:
        print(json.dumps(_document(options, standing, measured), indent=1))
    else:
        print(_answer(contest, standing))
    return WORSE if standing.verdict == "worse" else 0


def contest_of(options: AbOptions) -> Contest:
    """Checks what was typed.

    Raises:
        InputError: something of it is not allowed.
    """
    if options.max_pairs < options.min_pairs:
        raise not_allowed("--max-pairs", options.max_pairs, f"from --min-pairs on ({options.min_pairs})")
    if options.metric is not None and (not options.metric or set(options.metric) & set("= \t\r\n")):
        raise not_allowed("--metric", options.metric, "a name without = and spaces")
    if options.metric is None and options.better == "higher":
        raise not_allowed("--better", options.better, "lower, for the time that a command takes; or name a --metric")
    return Contest(
        commands=(words_of(options.command_a, "COMMAND_A"), words_of(options.command_b, "COMMAND_B")),
        metric=options.metric,
        higher_is_better=options.better == "higher",
        margin=options.margin,
        precision=options.precision,
        first=options.min_pairs,
        last=options.max_pairs,
        warmups=options.warmups,
        timeout=options.timeout,
        seed=options.seed,
    )


def _document(options: AbOptions, standing: Standing, measured: Measured) -> dict[str, Any]:
    """The document of `--json`."""
    known = standing.pairs > 1
    return {
        "command_a": redacted(options.command_a),
        "command_b": redacted(options.command_b),
        "metric": options.metric or WALL,
        "better": options.better,
        "margin": options.margin,
        "pairs": standing.pairs,
        "ratio": standing.ratio if known else None,
        "low": standing.low if known else None,
        "high": standing.high if known else None,
        "confidence": 0.95,
        "verdict": standing.verdict,
        "a": measured.values[0],
        "b": measured.values[1],
        "b_first": measured.b_first,
    }


def _look(contest: Contest, standing: Standing) -> str:
    return f"{standing.pairs} pairs: {_ratio(contest, standing)}"


def _ratio(contest: Contest, standing: Standing) -> str:
    if standing.pairs < 2:
        return "no interval"
    what = contest.metric or "time"
    turned = " (A / B, since more is better)" if contest.higher_is_better else ""
    return f"{what} of B / A{turned} {standing.ratio:.4f} [{standing.low:.4f}, {standing.high:.4f}]"


def _answer(contest: Contest, standing: Standing) -> str:
    word = "slower" if contest.metric is None else "worse"
    by = abs(standing.ratio - 1)
    return {
        "worse": f"B is {word} than A by {by:.1%}" + (f", more than {contest.margin:.1%}" if contest.margin else ""),
        "better": f"B is {'faster' if contest.metric is None else 'better'} than A by {by:.1%}",
        "same": f"no difference: within {contest.precision:.1%} of each other",
        "no worse": f"B is not {word} than A by more than {contest.margin:.1%}",
        "undecided": "no difference shown, and none excluded: more pairs would tell (--max-pairs)",
    }[standing.verdict]
