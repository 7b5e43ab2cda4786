"""A tuning as tables and sentences."""

from __future__ import annotations

import pytest

from pipeline.tuning import confirmation, result, text
from pipeline.tuning.objective import OBJECTIVES
from pipeline.tuning.result import TuningResult
from pipeline.tuning.trials import TrialResult
from tests.support.confirmed import RATE, SPACE, A, B, C, values


@pytest.fixture(scope="module")
def tuned() -> TuningResult:
    """B is half as fast again as the baseline A, a trial of C has run out of memory."""
    findings = [
        TrialResult(0, A, "finished", True, (100.0,), {RATE: 100.0}),
        TrialResult(1, B, "finished", True, (151.0,), {RATE: 151.0}),
        TrialResult(2, C, "oom", False, None, {}),
    ]
    objective = OBJECTIVES["throughput"]
    chosen = confirmation.candidates(objective, SPACE, result.measured(findings), 1)
    fresh = values(A=[100.0, 101.0, 99.0], B=[150.0, 152.0, 149.0], C=[120.0, 121.0, 119.0])
    return result.conclude("m", "d", objective, SPACE, findings, chosen, fresh, {"batch_size": 0.9})


def test_the_table_has_the_best_and_the_baseline_last(tuned: TuningResult) -> None:
    rows = text.rows(tuned)
    assert len(rows[0]) == len(text.headings(tuned))
    assert rows[0][:4] == ("1", B.label, "151", "x1.510") and rows[0][-1].startswith("x1.503 [")
    assert rows[-1][1] == f"{A.label} (baseline)"


def test_the_description_is_the_sentences_and_the_tables(tuned: TuningResult) -> None:
    made = text.tuning_markdown(tuned)
    assert all(f"- {line}" in made for line in text.sentences(tuned))
    assert "importances (fANOVA): batch_size 90%" in made and "1 infeasible" in made
    assert "recommended: batch_size=128" in made
    widths = {line.count("|") for line in made.splitlines() if line.startswith("|")}
    assert widths == {len(text.headings(tuned)) + 1}


def test_what_is_shown_on_a_terminal_is_what_is_stored(tuned: TuningResult, capsys: pytest.CaptureFixture[str]) -> None:
    text.show_tuning(tuned)
    shown = capsys.readouterr().out
    assert "m on d: throughput" in shown and all(line in shown for line in text.sentences(tuned))
