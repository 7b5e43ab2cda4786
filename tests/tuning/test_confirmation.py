"""The confirmation: intervals that hold though the winner is picked afterwards, and plain words for what they say."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tuning import confirmation, result, study_file
from pipeline.tuning import text as tables
from pipeline.tuning.confirmation import Measurement, PairedRatio
from pipeline.tuning.objective import OBJECTIVES, THROUGHPUT, TIME_TO_TARGET, VALIDATION_ACCURACY
from pipeline.tuning.space import Config
from pipeline.tuning.trials import TrialResult
from tests.support.tuning import make_space

RATE = "throughput/images_per_second"
A, B, C, D = Config(64, 1), Config(128, 1), Config(128, 2), Config(256, 1)
SPACE = make_space(batches=[64, 128, 256], accumulations=[1, 2])


def values(**by_name: list[float | None]) -> confirmation.Values:
    """Throughputs by block, of configurations A to D."""
    made: dict[Config, dict[int, dict[str, float]]] = {}
    for name, found in by_name.items():
        rows = enumerate(found)
        made[globals()[name]] = {block: {RATE: value} for block, value in rows if value is not None}
    return made


def conclude(
    found: confirmation.Values, searched: dict[Config, float], name: str = "throughput"
) -> result.TuningResult:
    findings = [TrialResult(n, c, "finished", True, (v,), {}) for n, (c, v) in enumerate(searched.items())]
    chosen = confirmation.candidates(OBJECTIVES[name], SPACE, result.measured(findings), 3)
    return result.conclude("m", "d", OBJECTIVES[name], SPACE, findings, chosen, found, {})


def test_the_ratio_is_the_mean_of_paired_logarithms_with_students_t() -> None:
    found = confirmation.contrast(values(A=[100, 110, 120], B=[200, 231, 240]), B, A, THROUGHPUT, 1)
    logs = [math.log(2.0), math.log(2.1), math.log(2.0)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2 / 3)
    assert found is not None and found.blocks == 3
    assert found.ratio == pytest.approx(math.exp(mean))
    assert found.low == pytest.approx(math.exp(mean - 4.302653 * error))  # t, 97.5 %, 2 degrees of freedom
    assert found.high == pytest.approx(math.exp(mean + 4.302653 * error))
    corrected = confirmation.contrast(values(A=[100, 110, 120], B=[200, 231, 240]), B, A, THROUGHPUT, 5)
    assert corrected is not None and corrected.low == pytest.approx(math.exp(mean - 9.924843 * error))  # 99.5 %


def test_only_common_blocks_are_compared_and_one_has_no_interval() -> None:
    found = confirmation.contrast(values(A=[100, None, 120], B=[200, 500, None]), B, A, THROUGHPUT, 1)
    assert found == PairedRatio(2.0, None, None, 1) and not found.known
    assert confirmation.contrast(values(A=[None, 1.0], B=[1.0, None]), B, A, THROUGHPUT, 1) is None


@pytest.mark.parametrize("family", [1, 4])
def test_the_winner_of_equals_is_rarely_called_better(family: int) -> None:
    """Four copies of the baseline: the best of them is picked, and must not be sold as an improvement."""
    source, wrong = random.Random(5), 0
    copies = [Config(128, s) for s in (1, 2)] + [Config(256, s) for s in (1, 2)]
    for _ in range(600):
        made = {c: {b: {RATE: math.exp(source.gauss(7, 0.02))} for b in range(6)} for c in [A, *copies]}
        found = [confirmation.contrast(made, c, A, THROUGHPUT, family) for c in copies]
        best = max((f for f in found if f is not None), key=lambda f: f.ratio)
        wrong += best.better(THROUGHPUT)
    assert (wrong / 600 < 0.05) == (family == 4), "uncorrected intervals are too narrow for a picked winner"


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


def test_accumulation_gets_its_counterpart_in_the_confirmation() -> None:
    space = make_space(batches=[64, 128, 256], accumulations=[1, 2])
    searched = [
        Measurement(D, 0, (9.0,)),
        Measurement(B, 1, (8.0,)),
        Measurement(Config(256, 2), 2, (1.0,)),
        Measurement(A, 3, (2.0,)),
    ]
    chosen = confirmation.candidates(OBJECTIVES["throughput"], space, searched, 2)
    assert [one.config for one in chosen] == [D, B, Config(256, 2)]
    unseen = confirmation.candidates(OBJECTIVES["throughput"], space, searched[:2], 1)
    assert [(one.config, one.number) for one in unseen] == [(D, 0), (Config(256, 2), None)]
    assert [one.config for one in confirmation.candidates(OBJECTIVES["memory"], space, searched[:1], 1)] == [D]


@given(st.integers(0, 1000), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_blocks_are_shuffled_and_whole(seed: int, blocks: int) -> None:
    orders = confirmation.blocks_of([D, A, C, B], blocks, seed)
    assert len(orders) == blocks and all(sorted(order) == sorted([A, B, C, D]) for order in orders)
    assert orders == confirmation.blocks_of([A, B, C, D], blocks, seed)


def test_directions_are_those_of_the_objective() -> None:
    assert PairedRatio(0.5, 0.4, 0.6, 4).better(TIME_TO_TARGET) and not PairedRatio(0.5, 0.4, 0.6, 4).better(THROUGHPUT)
    assert PairedRatio(1.5, 1.2, 1.6, 4).better(VALIDATION_ACCURACY) and not PairedRatio(1.5, 0.9, 1.6, 4).better(
        VALIDATION_ACCURACY
    )


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


def test_a_study_file_holds_the_recipe_and_leaves_out_what_it_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.design import plan, study

    monkeypatch.chdir(tmp_path)
    base = study.load_study("quickstart")
    recipe = base.recipe_for("test_resnet", "digits", {"batch_size": 96, "accumulation_steps": 3, "precision": "bf16"})
    path = study_file.write_study_file(
        "tuned-x", "test_resnet", "digits", recipe, base, "cpu", ["a note\nover two lines"]
    )
    again = study.load_study(str(path))
    assert again.recipe_for("test_resnet", "digits") == recipe and study.load_study("tuned-x") == again
    assert list(again.techniques) == ["ga", "pm"], "amp is on already"
    cells = plan.build_plan(again, "cpu").cells
    assert len(cells) == 4 and {cell.spec.recipe.accumulation_steps for cell in cells} == {3, 6}
    assert path.read_text().startswith("# a note over two lines\n")


def test_a_study_file_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.design import study
    from pipeline.errors import OutsideError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").write_text("a file")
    base = study.load_study("quickstart")
    arguments: Any = ("x", "test_resnet", "digits", base.recipe_for("test_resnet", "digits"), base, "cpu", [])
    with pytest.raises(OutsideError, match="study file"):
        study_file.write_study_file(*arguments)
