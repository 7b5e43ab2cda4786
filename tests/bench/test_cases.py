"""Contenders and segments of the races."""

from __future__ import annotations

import pytest

from pipeline.bench.cases import CONTENDERS, case_of, missing
from pipeline.bench.suite import PARTS
from pipeline.errors import InputError


def test_every_contender_has_a_row_and_a_way_to_install_it() -> None:
    assert {f"over_{name}" for name in CONTENDERS if name != "ablate"} == {p for p in PARTS if p.startswith("over_")}
    assert missing("bare") is None and missing("timm") is None
    for name in ("accelerate", "lightning", "fabric"):
        line = missing(name)
        assert line is None or "pip install -r experiments/benchmarks/requirements.txt" in line


def test_the_same_segment_for_every_device_and_model() -> None:
    case = case_of("timm:resnet18", "cpu", cores=2, windows=3)
    assert (case.windows, case.images, case.threads) == (3, 96, 1)
    assert case_of("resnet50", "cpu", cores=1).threads == 1
    assert case_of("resnet50", "cuda", cores=8).device == "cuda"
    with pytest.raises(InputError, match="model: 'resnet5000' is not allowed"):
        case_of("resnet5000", "cpu", cores=2)


@pytest.mark.parametrize("model", ["test_resnet", "resnet50", "timm:resnet18"])
def test_what_ablate_asks_of_nvml_is_spread_over_a_long_epoch_on_a_gpu(model: str) -> None:
    assert case_of(model, "cuda", cores=8).windows >= 200
    assert case_of(model, "cuda", cores=8, windows=50).windows == 50, "but it is as long as one wishes"
    assert case_of(model, "cpu", cores=8).windows < 50, "on a CPU nothing is asked, and steps are long"
