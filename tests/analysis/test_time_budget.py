"""Time budgets, what bounds a cell, what a technique can save."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis import ceilings, time_budget
from pipeline.analysis.ceilings import ceiling
from pipeline.analysis.effects import estimate
from pipeline.analysis.report import drawing, run_figures
from pipeline.analysis.report.document import report_document
from pipeline.design.techniques import TECHNIQUES
from pipeline.tracking.study_data import StudyData
from tests.support.planted import planted
from tests.support.reports import written_report

SHARES = {"data_wait": 0.1, "h2d": 0.02, "forward": 0.25, "backward": 0.5, "optimizer": 0.08, "idle": 0.05}


def budgets_of(study):
    effects = estimate(study)
    found = time_budget.budgets(effects)
    return found, {r.technique: r.sentence for r in time_budget.reasons(effects, found)}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_has_a_ceiling(name):
    limit = ceiling(name, SHARES, TECHNIQUES[name].default["cuda"], launch_bound=0.7)
    assert (limit > 0) is bool(TECHNIQUES[name].saves)
    without = ceiling(name, dict.fromkeys(SHARES, 0.0), launch_bound=0.7)
    assert without == 0, "there is nothing to save in a phase that takes no time"


def test_a_new_row_is_all_that_the_explanations_need(monkeypatch):
    row = replace(TECHNIQUES["pm"], name="turbo", saves=("data_wait", "backward"), inert_on=frozenset())
    monkeypatch.setattr(ceilings, "TECHNIQUES", {**TECHNIQUES, "turbo": row})
    _, sentences = budgets_of(planted(blocks=2, techniques=("turbo", "pm")))
    begin = "turbo: waiting for data and the backward pass are 60.0 % of the step, so it cannot save more than 60.0 %"
    assert sentences["turbo"].startswith(begin)


def test_ceilings_follow_the_budget():
    effects = estimate(planted(blocks=2))
    budgets = time_budget.budgets(effects)
    assert len(budgets) == 8
    assert budgets[0].bound == "compute"
    assert sum(budgets[0].shares.values()) == pytest.approx(1)
    sentence = next(r.sentence for r in time_budget.reasons(effects, budgets) if r.technique == "pm")
    assert sentence.startswith("pm: copies are 2.0 % of the step, so it cannot save more than 2.0 % here")
    shares = {"data_wait": 0.6, "h2d": 0.1, "forward": 0.1, "backward": 0.1, "optimizer": 0.1}
    assert ceiling("device_data", shares) == pytest.approx(0.7)
    assert ceiling("ga", shares, "4") == pytest.approx(0.075)
    assert ceiling("ga_fixed", shares) == 0
    assert ceiling("unheard_of", shares) is None
    assert ceiling("pm", {"forward": 1.0}) is None


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


def test_the_ceiling_of_recorded_passes_is_what_launching_bounds():
    assert ceiling("cuda_graph", SHARES) is None
    assert ceiling("cuda_graph", {"forward": 0.4, "backward": 0.6}, launch_bound=0.5) is None
    assert ceiling("cuda_graph", SHARES, launch_bound=0.0) == pytest.approx(0.05)
    assert ceiling("cuda_graph", SHARES, launch_bound=0.7) == pytest.approx(0.05 + 0.7 * 0.83)
    # the optimizer is not recorded: with everything bound, the two passes and the idle time are left
    assert ceiling("cuda_graph", SHARES, launch_bound=1.0) == pytest.approx(0.05 + 0.75)
    assert ceiling("compile", SHARES, launch_bound=0.7) == ceiling("compile", SHARES) == pytest.approx(0.88)


def test_sentences_say_what_launching_bounds():
    techniques = ("cuda_graph", "amp", "compile", "pm", "ga")
    _, sentences = budgets_of(planted(blocks=2, launch_bound=0.7, techniques=techniques, truth={"cuda_graph": -0.5}))
    begin = "cuda_graph: launching kernels bounds 63.1 % of the step, so it cannot save more than 63.1 % here; measured"
    assert sentences["cuda_graph"].startswith(begin)
    words = "the forward pass and the backward pass are 75.0 % of the step"
    begin = f"amp: {words}, so it cannot save more than 75.0 % here"
    assert sentences["amp"].startswith(begin + ", where launching kernels bounds 63.1 % of the step; measured")
    words = "the forward pass, the backward pass, the optimizer and idle time are 88.0 % of the step"
    assert f"compile: {words}, so it cannot save more than 88.0 % here, where launching" in sentences["compile"]
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
                f"{name}: it takes no work out of a step, so it cannot save time; it lowers memory; measured: it "
            )


def test_the_report_shows_what_launching_takes(tmp_path):
    report = written_report(planted(blocks=2, launch_bound=0.7), tmp_path)
    budget = report_document(report)["budgets"][0]
    assert (budget["bound"], budget["launch_bound"]) == ("launch", pytest.approx(0.7))
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert '<th scope="col" class="n">launching</th>' in page
    assert '<td>launch</td><td class="n">63.1 %</td><td class="n">10.0 %</td>' in page
    assert "launch-bound" in run_figures.budget_bars(report.budgets, report.effects).svg
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| cell | model | dataset | bound by |"))
    assert lines[at].endswith("| launching | data\\_wait | h2d | forward | backward | optimizer | idle |")
    row = "| baseline | resnet | digits | launch | 63.1 % | 10.0 % | 2.0 % | 25.0 % | 50.0 % | 8.0 % | 5.0 % |"
    assert lines[at + 1 : at + 3] == ["|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|", row]


def test_the_figure_has_what_launching_bounds_beside_idle_time(monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig.axes[0]) or "")
    effects = estimate(planted(blocks=2, launch_bound=0.7))
    run_figures.budget_bars(time_budget.budgets(effects), effects)
    bars = {c.get_label(): [path.get_extents() for path in c.get_paths()] for c in kept[0].collections}
    assert len(bars["launch-bound"]) == len(bars["idle"]) == 8
    first = bars["launch-bound"][0]
    assert first.width == pytest.approx(0.7 * 0.83)
    assert [box.x1 for box in bars["launch-bound"]] == pytest.approx([box.x0 for box in bars["idle"]])
    assert first.height < bars["idle"][0].height / 2


def test_without_the_fraction_there_is_no_column_for_launching(tmp_path):
    written_report(planted(blocks=2, device="cpu", gpu=False), tmp_path)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "launch" not in page and "launch" not in text
    assert (
        "| baseline | resnet | digits | compute | 10.0 % | 2.0 % | 25.0 % | 50.0 % | 8.0 % | 5.0 % |"
        in text.splitlines()
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
