"""Time budgets, what bounds a cell, what is said of it."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis import ceilings, time_budget
from pipeline.analysis.ceilings import ceiling
from pipeline.analysis.effects import estimate
from pipeline.design.techniques import TECHNIQUES
from pipeline.tracking.study_data import StudyData
from tests.support.planted import one, planted, without


def budgets_of(study):
    effects = estimate(study)
    found = time_budget.budgets(effects)
    return found, {r.technique: r.sentence for r in time_budget.reasons(effects, found)}


def test_a_new_row_is_all_that_the_explanations_need(monkeypatch):
    row = replace(TECHNIQUES["pm"], name="turbo", saves=("data_wait", "backward"), inert_on=frozenset())
    monkeypatch.setattr(ceilings, "TECHNIQUES", {**TECHNIQUES, "turbo": row})
    _, sentences = budgets_of(planted(blocks=2, techniques=("turbo", "pm")))
    begin = "turbo: waiting for data and the backward pass are 60.0 % of the step, so it can save at most about 60.0 %"
    assert sentences["turbo"].startswith(begin)


def test_ceilings_follow_the_budget():
    effects = estimate(planted(blocks=2))
    budgets = time_budget.budgets(effects)
    assert len(budgets) == 8
    assert budgets[0].bound == "compute"
    assert sum(budgets[0].shares.values()) == pytest.approx(1)
    sentence = next(r.sentence for r in time_budget.reasons(effects, budgets) if r.technique == "pm")
    assert sentence.startswith("pm: copies are 2.0 % of the step, so it can save at most about 2.0 % here")
    shares = {"data_wait": 0.6, "h2d": 0.1, "forward": 0.1, "backward": 0.1, "optimizer": 0.1}
    assert ceiling("device_data", shares) == pytest.approx(0.7)
    assert ceiling("ga", shares, "4") == pytest.approx(0.075)
    assert ceiling("ga_fixed", shares) == 0
    assert ceiling("unheard_of", shares) is None
    assert ceiling("pm", {"forward": 1.0}) is None


def test_beside_the_ceiling_of_the_baseline_stands_the_technique_alone():
    study = planted(blocks=3, truth={"ga": -0.13, "ga:amp": -0.2})  # alone it saves 3 %, with amp 20 %
    effects = estimate(study)
    alone = one(effects, term="ga", kind="simple")
    _, sentences = budgets_of(study)
    said = f"{1 / alone['estimate']:.3f}x as fast [{1 / alone['high']:.3f}, {1 / alone['low']:.3f}]."
    assert f"can save at most about 6.5 % of the step here; measured: {said}" in sentences["ga"]
    lost = without(study, study.runs["params.techniques"].eq("ga"))
    main = one(estimate(lost), term="ga", kind="main")
    said = f"{1 / main['estimate']:.3f}x as fast ["
    assert f"; measured only on average over the other techniques: {said}" in budgets_of(lost)[1]["ga"]


def test_the_largest_part_is_what_bounds_a_cell():
    study = planted(blocks=2)
    study.runs["metrics.budget/data_wait_seconds"] = 1e6
    assert {b.bound for b in time_budget.budgets(estimate(study))} == {"data"}


def test_a_cell_whose_device_only_keeps_up_with_the_host_is_bound_by_launching():
    budgets, _ = budgets_of(planted(blocks=2, launch_bound=0.7))
    assert {b.bound for b in budgets} == {"launch"}
    assert budgets[0].launch_bound == pytest.approx(0.7)
    assert budgets[0].bound_share == pytest.approx(0.05 + 0.7 * 0.83)
    assert budgets[0].parts == pytest.approx({"data": 0.1, "copy": 0.02, "compute": 0.249, "launch": 0.631})
    busy, _ = budgets_of(planted(blocks=2, launch_bound=0.1))
    assert {b.bound for b in busy} == {"compute"}


@pytest.mark.parametrize("value", [None, np.nan, -0.1, 1.5])
def test_without_a_measured_fraction_nothing_is_called_launching(value):
    study = planted(blocks=2, launch_bound=value, techniques=("cuda_graph", "fused"))
    study.runs["metrics.budget/idle_seconds"] = 1e6
    budgets, sentences = budgets_of(study)
    assert {(b.bound, b.launch_bound) for b in budgets} == {("idle", None)}
    assert sentences["cuda_graph"].startswith("cuda_graph: no time budget says how much it could save; measured")
    assert "the optimizer and idle time are 100.0 % of the step" in sentences["fused"]
    assert not any("launch" in text for text in sentences.values())


def test_sentences_say_what_launching_bounds():
    techniques = ("cuda_graph", "amp", "compile", "pm", "ga")
    _, sentences = budgets_of(planted(blocks=2, launch_bound=0.7, techniques=techniques, truth={"cuda_graph": -0.5}))
    begin = (
        "cuda_graph: launching kernels bounds 63.1 % of the step, so it can save at most about 63.1 % here; measured"
    )
    assert sentences["cuda_graph"].startswith(begin)
    words = "the forward pass and the backward pass are 75.0 % of the step"
    begin = f"amp: {words}, so it can save at most about 75.0 % here"
    assert sentences["amp"].startswith(begin + ", where launching kernels bounds 63.1 % of the step; measured")
    words = "the forward pass, the backward pass, the optimizer and idle time are 88.0 % of the step"
    assert f"compile: {words}, so it can save at most about 88.0 % here, where launching" in sentences["compile"]
    assert "launching" not in sentences["pm"] + sentences["ga"]
    _, busy = budgets_of(planted(blocks=2, launch_bound=0.1, techniques=("cuda_graph", "amp")))
    assert "launching kernels bounds 13.3 %" in busy["cuda_graph"]
    assert busy["amp"].startswith(begin + "; measured")


def test_what_takes_no_work_out_of_a_step_saves_memory_only():
    study = planted(blocks=2, techniques=("grad_checkpoint", "ga_fixed"))
    for runs in (study.runs, study.runs.drop(columns=[c for c in study.runs if "budget/" in c])):
        _, sentences = budgets_of(StudyData("planted", runs, techniques=study.techniques))
        for name, said in sentences.items():
            assert said.startswith(
                f"{name}: it takes no work out of a step, so it cannot save time; it lowers memory; measured: "
            )


def test_a_control_is_said_to_be_one():
    effects = estimate(planted(blocks=2, device="cpu", gpu=False))
    sentences = {r.technique: r.sentence for r in time_budget.reasons(effects, time_budget.budgets(effects))}
    assert "A/A control" in sentences["pm"]
    assert "A/A control" not in sentences["amp"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_a_control_is_what_its_row_says(device):
    study = planted(blocks=1, device=device, gpu=device == "cuda", techniques=("tf32", "pm", "channels_last"))
    assert estimate(study).inert == {name for name in ("tf32", "pm") if device in TECHNIQUES[name].inert_on}


def test_batchnorm_models_are_named():
    study = planted(models=("resnet", "vit"), blocks=1)
    study.runs["tags.ablate.batchnorm"] = study.runs["params.model"].eq("resnet").map({True: "true", False: "false"})
    assert time_budget.batchnorm_models(estimate(study)) == ["resnet"]


def test_batchnorm_is_no_word_where_nothing_accumulates():
    study = planted(blocks=2, techniques=("amp",))
    study.runs["tags.ablate.batchnorm"] = "true"
    assert time_budget.batchnorm_models(estimate(study)) == []


@pytest.mark.parametrize(("flags", "said"), [("none", True), ("amx_bf16", False), (None, False)])
def test_the_processor_s_lack_of_bf16_is_a_reason(flags, said):
    study = planted(blocks=4, techniques=("amp",), device="cpu", gpu=False, truth={"amp": 0.5})
    precision = study.runs["params.amp"].map({"on": "bf16", "off": "fp32"})
    study = replace(study, runs=study.runs.assign(**{"params.recipe.precision": precision, "tags.env.cpu_bf16": flags}))
    effects = estimate(study)
    (reason,) = time_budget.reasons(effects, time_budget.budgets(effects))
    assert ("this CPU has no bf16 instructions" in reason.sentence) == said
    assert ("this CPU has bf16 instructions (amx_bf16)" in reason.sentence) == (flags == "amx_bf16")
