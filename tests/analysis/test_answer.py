"""The answer as numbers: it and the effects it is made from cannot disagree."""

import math

import numpy as np
import pytest

from pipeline.analysis.answer import ALONE, TOGETHER, answer_of
from pipeline.analysis.effects import estimate
from pipeline.analysis.recommendation import recommend
from tests.support.planted import one, planted


def test_each_number_is_that_of_the_table_in_the_direction_of_readers():
    effects = estimate(planted(blocks=5))
    answer = answer_of(effects)
    (advice,) = answer.groups
    assert [(part.term, part.kind) for part in advice.parts] == [
        ("ga", ALONE),
        ("amp", ALONE),
        ("pm", ALONE),
        ("ga+amp+pm", TOGETHER),
    ]
    for part in advice.parts:
        time, accuracy, memory = (
            one(effects, term=part.term, kind=part.kind, response=response)
            for response in ("train_seconds", "accuracy", "gpu_peak_allocated_mib")
        )
        assert part.speed.value == pytest.approx(1 / time["estimate"]) and part.speed.low == 1 / time["high"]
        assert part.speed.verdict == time["verdict"]
        assert (part.accuracy.value, part.accuracy.low) == (accuracy["estimate"], accuracy["low"])
        assert part.memory.value == memory["estimate"] and math.isnan(part.host_mib)
    assert advice.parts[-1].synergy.value == pytest.approx(
        1 / one(effects, term="ga+amp+pm", kind="synergy")["estimate"]
    )


def test_the_recommendation_is_in_it():
    study = planted(models=("m1", "m2"), blocks=4)
    effects = estimate(study)
    answer = answer_of(effects, 3000.0)
    assert [advice.chosen for advice in answer.groups] == recommend(effects, study, 3000.0)
    used = [advice for advice in answer.groups if advice.chosen.cell != "baseline"]
    assert used and all(advice.chosen_part is None for advice in answer.groups if advice not in used)
    for advice in used:
        assert advice.chosen_part.term == advice.chosen.cell
        assert advice.chosen_part.speed.low == pytest.approx(1 / advice.chosen.high)
    assert (answer.models, answer.datasets) == (2, 1) and len(answer.averages) == 4


def test_on_top_of_another_is_the_ratio_of_two_cells():
    effects = estimate(planted(blocks=5, truth={"amp": 0.9, "ga": -0.95, "ga:amp": -1.9}))
    times = effects.cells[effects.cells["response"].eq("train_seconds")].set_index("cell")["mean"]
    ga = answer_of(effects).groups[0].parts[0]
    (on_top,) = ga.on_top
    assert on_top.others == "amp" and on_top.verdict == "costs"
    assert on_top.speed == pytest.approx(times["amp"] / times["ga+amp"]) and on_top.speed > 5 > ga.speed.value


def test_on_a_cpu_the_host_s_memory_is_told():
    study = planted(blocks=2, device="cpu", gpu=False)
    study.runs["metrics.memory/host_peak_rss_mib"] = np.where(study.runs["params.amp"].eq("on"), 620.0, 600.0)
    parts = {part.term: part for part in answer_of(estimate(study)).groups[0].parts}
    assert parts["amp"].host_mib == pytest.approx(20) and parts["ga"].host_mib == pytest.approx(0)
    assert parts["amp"].memory is None
