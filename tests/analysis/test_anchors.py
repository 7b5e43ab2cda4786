"""Throughput beside what a device could reach."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis import time_budget
from pipeline.analysis.anchors import anchors, fastest, tera
from pipeline.analysis.effects import estimate
from tests.support.planted import planted, with_gpu


def anchors_of(study):
    return {a.cell: a for a in anchors(estimate(study))}


def test_a_rate_is_set_beside_both_peaks_of_its_precision():
    effects = estimate(planted(blocks=2))
    found = {a.cell: a for a in anchors(effects)}
    rates = effects.cells.query("response == 'images_per_second'").set_index("cell")["mean"]
    for cell, precision, peak, achieved in (("baseline", "fp32", 66.9, 52.0), ("amp+pm", "fp16", 989.4, 799.3)):
        a = found[cell]
        assert (a.precision, a.peak, a.achieved) == (precision, peak * 1e12, achieved * 1e12)
        assert a.images_per_second == pytest.approx(rates[cell])
        assert a.flops_per_second == pytest.approx(rates[cell] * 8e9)
        assert a.of_peak == pytest.approx(rates[cell] * 8e9 / (peak * 1e12))
        assert a.of_achieved == pytest.approx(rates[cell] * 8e9 / (achieved * 1e12))
    assert {b.cell: b.mfu for b in time_budget.budgets(effects)} == {cell: a.of_peak for cell, a in found.items()}


def test_what_is_not_known_is_absent():
    unknown = anchors_of(with_gpu("Quantum 9000"))["baseline"]
    assert unknown.flops_per_second > 0
    assert (unknown.of_peak, unknown.of_achieved, unknown.peak, unknown.achieved) == (None,) * 4
    pcie = anchors_of(with_gpu("NVIDIA H100 PCIe"))["baseline"]
    assert pcie.of_peak > 0 and pcie.of_achieved is None
    study = planted(blocks=2)
    bare = study.runs.drop(columns=["params.recipe.precision"])
    found = anchors_of(replace(study, runs=bare))
    assert {(a.precision, a.of_peak) for a in found.values()} == {(None, None)}  # fp32 would be a guess
    study.runs["metrics.model/flops_per_image"] = study.runs["params.amp"].map({"on": 0.0, "off": 8e9})
    found = anchors_of(study)
    assert found["amp"].images_per_second > 0 and found["amp"].flops_per_second is None
    assert found["ga"].flops_per_second > 0
    study.runs["metrics.model/flops_per_image"] = np.nan
    assert anchors_of(study) == {}
    assert {b.mfu for b in time_budget.budgets(estimate(study))} == {None}


def test_several_processes_have_as_many_devices():
    one, study = anchors_of(planted(blocks=2))["baseline"], planted(blocks=2)
    study.runs["params.nproc"] = "4"
    four = anchors_of(study)["baseline"]
    assert (four.peak, four.achieved) == (4 * one.peak, 4 * one.achieved)
    assert four.of_peak == pytest.approx(one.of_peak / 4)
    assert four.flops_per_second == pytest.approx(one.flops_per_second)


def test_runs_on_different_devices_share_no_peak():
    study = planted(blocks=2)
    study.runs.loc[study.runs["tags.ablate.block"].eq("1"), "tags.env.gpu_name"] = "NVIDIA A100-SXM4-80GB"
    mixed = anchors_of(study)["baseline"]
    assert (mixed.peak, mixed.achieved) == (None, None)
    assert 0 < mixed.of_peak < mixed.of_achieved
    assert "% of the data sheet's peak." in fastest([mixed])[0]


def test_the_sentence_names_the_fastest_cell_and_both_peaks():
    study = planted(models=("resnet50",), datasets=("cifar10",), blocks=2, noise=0, truth={"amp": np.log(0.5)})
    said = fastest(anchors(estimate(study)))
    cell = max(anchors(estimate(study)), key=lambda a: a.images_per_second)
    assert "amp" in cell.cell
    rate = cell.flops_per_second / 1e12
    assert said == [
        f"resnet50 on cifar10: the fastest cell ({cell.cell}) reaches {rate:.3g} TFLOP/s, "
        f"{100 * rate / 799.3:.1f} % of what large fp16 matrix products reach on such a device (799), "
        f"{100 * rate / 989.4:.1f} % of the data sheet's peak (989)."
    ]
    study.runs["tags.env.gpu_name"] = "Quantum 9000"
    assert fastest(anchors(estimate(study))) == [said[0].split(",")[0] + "."]


@pytest.mark.parametrize(("value", "words"), [(2.13e10, "0.0213"), (7.993e14, "799"), (3.9576e15, "3,958")])
def test_rates_are_written_in_tera(value, words):
    assert tera(value) == words
