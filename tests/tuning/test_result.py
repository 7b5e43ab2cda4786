"""Conclusions of a tuning, in plain words: the winner with its interval, ties, and what accumulation does."""

from __future__ import annotations

import math

import pytest

from pipeline.tuning import confirmation, result
from pipeline.tuning import text as tables
from pipeline.tuning.objective import OBJECTIVES
from pipeline.tuning.space import Config
from pipeline.tuning.trials import TrialResult
from tests.support.confirmed import RATE, SPACE, A, B, C, D, values
from tests.support.tuning import make_space


def conclude(
    found: confirmation.Values, searched: dict[Config, float], name: str = "throughput"
) -> result.TuningResult:
    findings = [TrialResult(n, c, "finished", True, (v,), {}) for n, (c, v) in enumerate(searched.items())]
    chosen = confirmation.candidates(OBJECTIVES[name], SPACE, result.measured(findings), 3)
    return result.conclude("m", "d", OBJECTIVES[name], SPACE, findings, chosen, found, {})


def test_a_shown_improvement_wins_and_what_it_does_not_beat_ties() -> None:
    found = conclude(
        values(A=[100, 101, 99, 100], B=[150, 152, 149, 150], D=[149, 153, 149.5, 150.5], C=[120, 121, 119, 120]),
        {A: 100.0, B: 151.0, D: 152.0, C: 119.0},
    )
    assert found.verdict == "better" and found.best in (B, D) and found.recommended == found.best
    assert len(found.ties) == 1 and C not in found.ties
    assert found.optimistic == pytest.approx(1.52)
    text = "\n".join(tables.sentences(found))
    assert "winner" in text and "tied with the winner" in text and "x1.520" in text
    document = result.document(found, "f.yaml", {})
    assert document["low"] <= document["ratio"] <= document["high"] and document["low"] > 1
    assert document["best"]["accumulation_steps"] == 1 and document["trials"] == 4


def test_a_tie_is_said_and_keeps_the_baseline() -> None:
    found = conclude(values(A=[100, 120, 90], B=[130, 100, 105]), {A: 100.0, B: 140.0})
    assert found.verdict == "tie" and found.recommended == A and found.best == B
    assert any(line.startswith("tie:") and "keep the baseline" in line for line in tables.sentences(found))
    assert "1.400" in "\n".join(tables.sentences(found)), "what the search would have claimed stands beside it"


@pytest.mark.parametrize(("others", "tied"), [(1, False), (4, True)])
def test_whether_the_winner_beats_another_is_corrected_over_all_pairs(others: int, tied: bool) -> None:
    """A t of 6.5 on 3 degrees of freedom, p = 0.0074: known in a family of one or of k = 5, not of ten pairs."""
    space = make_space(batches=[64, 128, 256, 512], accumulations=[1, 2])
    winner, second, *rest = [config for config in space.configs if config != space.baseline][: 1 + others]
    wave = [0.01 * x * math.sqrt(0.75) for x in (1, -1, 1, -1)]
    logs = {space.baseline: [0.0] * 4, winner: [1 + x / 2 for x in wave], second: [0.9675 - x / 2 for x in wave]}
    logs |= {config: [0.5 + x for x in wave] for config in rest}
    chosen = [confirmation.Measurement(config) for config in logs if config != space.baseline]
    fresh = {c: {b: {RATE: math.exp(x)} for b, x in enumerate(found)} for c, found in logs.items()}
    found = result.conclude("m", "d", OBJECTIVES["throughput"], space, [], chosen, fresh, {})
    assert found.best == winner and found.verdict == "better"
    assert found.ties == ((second,) if tied else ())


def test_agreeing_accuracies_make_no_winner_but_may_lose() -> None:
    accuracy = {A: [0.6, 0.7], B: [0.65, 0.75], C: [0.5, 0.6]}
    objective = OBJECTIVES["accuracy"]
    fresh = {c: {b: {"val/accuracy": v} for b, v in enumerate(found)} for c, found in accuracy.items()}
    chosen = [confirmation.Measurement(B), confirmation.Measurement(C)]
    found = result.conclude("m", "d", objective, SPACE, [], chosen, fresh, {})
    assert (found.best, found.verdict, found.recommended) == (B, "unknown", A)
    assert "the blocks agree to the last digit, no interval" in "\n".join(tables.sentences(found))
    front = {
        c: {b: {RATE: 100.0 + b, "memory/gpu_peak_allocated_mib": 9.0} | m for b, m in runs.items()}
        for c, runs in fresh.items()
    }
    for block in front[C].values():
        block[RATE] *= 3
    found = result.conclude("m", "d", OBJECTIVES["pareto"], SPACE, [], chosen, front, {})
    assert found.best == B, "a loss in which all blocks agree is not given away for throughput"


def test_a_worse_winner_is_no_recommendation() -> None:
    found = conclude(values(A=[100, 101, 99], B=[80, 81, 79]), {A: 100.0, B: 140.0})
    assert found.verdict == "worse" and found.recommended == A
    assert "nothing is faster" in "\n".join(tables.sentences(found))


def test_without_a_baseline_there_is_no_ratio() -> None:
    found = conclude(values(B=[80, 81, 79]), {B: 140.0})
    assert found.best == B and found.ratio is None and found.verdict == "unknown" and found.recommended == A
    assert result.document(found, None, {})["ratio"] is None
    nothing = conclude({}, {})
    assert nothing.best is None and result.document(nothing, None, {})["best"] is None


@pytest.mark.parametrize(
    ("with_steps", "sentence"),
    [
        ([100.1, 100.0, 99.9, 100.0], "GA does not raise images/s here: within 1 %"),
        ([90.0, 90.2, 89.9, 90.1], "GA does not raise images/s here: it costs"),
        ([120.0, 120.5, 119.5, 120.0], "GA raises images/s here"),
        ([120.0, 80.0, 119.5, 110.0], "undecided"),
    ],
)
def test_what_accumulation_does_is_said_plainly(with_steps: list[float], sentence: str) -> None:
    found = conclude(values(A=[50, 50, 50, 50], B=[100.0, 100.1, 99.9, 100.0], C=with_steps), {A: 50, B: 101, C: 99})
    assert sentence in result.ga_sentence(found)
    assert [(row.batch_size, row.best_steps) for row in found.ga] == [(128, 2)]


def test_a_front_is_confirmed_along_its_length_and_accuracy_is_not_given_away() -> None:
    space = make_space(batches=[64, 128, 256], accumulations=[1])
    metrics: dict[Config, dict[str, float]] = {
        Config(64, 1): {RATE: 100.0, "memory/gpu_peak_allocated_mib": 100.0, "val/accuracy": 0.9},
        Config(128, 1): {RATE: 150.0, "memory/gpu_peak_allocated_mib": 150.0, "val/accuracy": 0.9},
        Config(256, 1): {RATE: 200.0, "memory/gpu_peak_allocated_mib": 200.0, "val/accuracy": 0.5},
    }
    objective = OBJECTIVES["pareto"]
    findings = [
        TrialResult(n, c, "finished", True, objective.values(m), {}) for n, (c, m) in enumerate(metrics.items())
    ]
    chosen = confirmation.candidates(objective, space, result.measured(findings), 3)
    jitter = [0.99, 1.0, 1.01, 1.0]
    measured = {c: {b: {k: v * jitter[b] for k, v in m.items()} for b in range(4)} for c, m in metrics.items()}
    found = result.conclude("m", "d", objective, space, findings, chosen, measured, {})
    assert found.best == Config(128, 1) and found.ratio is not None and found.ratio.ratio == pytest.approx(1.5)
    assert set(found.candidates[0].ratios) == {"throughput", "peak memory", "validation accuracy"}
