"""Captured steps, with closures in place of CUDA graphs: what is captured, what is restored, and equal training.

The recorder of these tests runs on a CPU and keeps the rules of a capture: it runs nothing, and a replay
sees static buffers only. `test_gpu` has the same comparison with real graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import cuda_graphs
from pipeline.training.cuda_graphs import CapturedGraphs, capture
from pipeline.training.precision import Precision
from pipeline.training.warmup import preserving_state
from tests.support.training import ClosureRecorder, end_of, per_epoch, reproducible, run_in_process, small_spec, summary

CPU = torch.device("cpu")
MADE: list[CapturedGraphs] = []


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[CapturedGraphs]:
    """Lets the trainer keep closures; every `CapturedGraphs` made since."""
    MADE.clear()

    def spy(*arguments: Any) -> CapturedGraphs:
        MADE.append(capture(*arguments))
        return MADE[-1]

    monkeypatch.setattr(cuda_graphs, "CudaRecorder", ClosureRecorder)
    monkeypatch.setattr(cuda_graphs, "capture", spy)
    return MADE


def twins(name: str, **recipe: Any) -> list[RunSpec]:
    # 44 samples in micro-batches of 16, two a window: the last window is one short micro-batch
    fields = {
        "epochs": 2,
        "batch_size": 16,
        "accumulation_steps": 2,
        "max_train_samples": 44,
        "validation_fraction": 0.0,
        "momentum": 0.9,
        "weight_decay": 0.05,
        "clip_norm": 1.0,
        **recipe,
    }
    return [small_spec(name, cuda_graph=on, **fields) for on in (False, True)]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"precision": "fp16", "scaler_init_scale": 2.0**20, "scaler_growth_interval": 2}),
        ("test_vit", {"precision": "bf16", "optimizer": "sgd"}),
        ("test_efficientnet", {"channels_last": True, "fused_optimizer": True}),
    ],
)
def test_replayed_training_equals_eager_training(
    name: str, recipe: dict[str, Any], captured: list[CapturedGraphs], digits_dir: Path, tmp_path: Path
) -> None:
    runs = []
    for number, spec in enumerate(twins(name, **recipe)):
        records = run_in_process(spec, digits_dir, tmp_path / str(number))
        assert end_of(records).outcome == "finished", end_of(records).error
        runs.append([reproducible(summary(records)), *(reproducible(v) for v in per_epoch(records).values())])
    for eager, replayed in zip(*runs, strict=True):
        assert replayed == pytest.approx(eager, rel=1e-5)
    assert [made.replays for made in captured] == [2 * 3], "every micro-batch of every epoch is replayed"


def setup(sizes: list[int]) -> tuple[nn.Module, ClosureRecorder, CapturedGraphs]:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    unused = nn.Parameter(torch.ones(2))
    model.register_parameter("unused", unused)
    recipe = Recipe(image_size=8, cuda_graph=True)
    recorder = ClosureRecorder()
    made = capture(model, nn.CrossEntropyLoss(), Precision(recipe, CPU), recipe, sizes, CPU, recorder)
    return model, recorder, made


def test_one_pair_of_graphs_for_each_size() -> None:
    _, recorder, made = setup([4, 4, 3, 4])
    assert recorder.captured == 2 * 2
    for size in (4, 3):
        made.forward(torch.zeros(size, 3, 8, 8), torch.zeros(size, dtype=torch.int64), 1.0)
        made.backward()
    assert made.replays == 2
    with pytest.raises(KeyError):
        made.forward(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64), 1.0)
    with pytest.raises(RuntimeError, match="once"):
        made.backward()


def test_gradients_start_at_zero_and_stay_where_they_are() -> None:
    model, _, made = setup([4])
    used = {name: p.grad for name, p in model.named_parameters() if name != "unused"}
    assert all(grad is not None and not grad.any() for grad in used.values())
    assert model.unused.grad is None, "the optimizer must go on passing over it"
    addresses = {name: grad.data_ptr() for name, grad in used.items() if grad is not None}
    for _ in range(2):
        made.forward(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), 0.5)
        made.backward()
    assert {name: p.grad.data_ptr() for name, p in model.named_parameters() if p.grad is not None} == addresses
    assert any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_loss_is_not_overwritten_by_the_next_replay() -> None:
    _, _, made = setup([4])
    losses = []
    for share in (1.0, 0.25):
        losses.append(made.forward(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), share))
        assert not losses[-1].requires_grad
        made.backward()
    assert losses[0].item() > losses[1].item() > 0


def test_the_warm_up_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    model.register_buffer("passing", torch.ones(3), persistent=False)
    before = [buffer.clone() for buffer in model.buffers()]
    places = [buffer.data_ptr() for buffer in model.buffers()]
    state = torch.get_rng_state()
    with preserving_state(model, CPU):
        model(torch.rand(4, 3, 8, 8))
        model.passing.add_(1)
        assert any(not torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert places == [buffer.data_ptr() for buffer in model.buffers()], "graphs know a buffer by its address"
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.usefixtures("captured")
def test_capture_is_timed_apart(digits_dir: Path, tmp_path: Path) -> None:
    eager, graphed = (
        summary(run_in_process(spec, digits_dir, tmp_path / str(number)))
        for number, spec in enumerate(twins("test_resnet"))
    )
    assert "time/compile_seconds" not in eager and graphed["time/compile_seconds"] > 0


def test_without_a_device_it_is_no_silent_fallback(digits_dir: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    end = end_of(run_in_process(twins("test_resnet")[1], digits_dir, tmp_path))
    assert end.outcome == "failed"


@pytest.mark.slow
def test_a_captured_model_is_compiled_once(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-up, the capture and training call it in one and the same context: dynamo would go by a difference."""
    made: list[CapturedGraphs] = []

    def recorder(_device: torch.device) -> Any:
        return ClosureRecorder()

    def spy(*arguments: Any) -> CapturedGraphs:
        made.append(capture(*arguments))
        return made[-1]

    monkeypatch.setattr(cuda_graphs, "CudaRecorder", recorder)
    monkeypatch.setattr(cuda_graphs, "capture", spy)
    torch._dynamo.reset()
    counters.clear()
    recipe = {"compile": "default", "cuda_graph": True, "precision": "bf16"}
    end = end_of(run_in_process(small_spec("test_vit", patch_size=8, **recipe), digits_dir, tmp_path))
    assert end.outcome == "finished", end.error
    # micro-batches of 32: one size, one graph, one compilation
    assert made and counters["stats"]["unique_graphs"] == 1
