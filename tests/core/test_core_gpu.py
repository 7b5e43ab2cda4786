"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from core_makers import end_of, per_epoch, run_in_process, small_spec, summary

from pipeline import graphs, models, nvml, trainer, worker
from pipeline.launchers.local import LocalLauncher
from pipeline.precision import Precision
from pipeline.spec import Recipe, RunSpec
from pipeline.warmup import untouched

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def cuda_spec(**recipe: Any) -> RunSpec:
    fields = {"max_train_samples": 1024, "batch_size": 64, "epochs": 2, **recipe}
    return small_spec(**fields).model_copy(update={"device": "cuda"})


@pytest.mark.parametrize("fused", [False, True])
def test_amp_with_the_real_scaler(fused: bool, digits_dir: Path, tmp_path: Path) -> None:
    spec = cuda_spec(precision="fp16", scaler_init_scale=2.0**24, fused_optimizer=fused, epochs=4, clip_norm=1.0)
    records = run_in_process(spec, digits_dir, tmp_path)
    assert end_of(records).outcome == "finished"
    values = summary(records)
    assert values["updates/count"] + values["amp/skipped_steps"] == 4 * 16
    assert 0 < values["amp/skipped_steps"] < 30 and values["amp/final_scale"] < 2.0**24


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_trains(precision: str, digits_dir: Path, tmp_path: Path) -> None:
    values = summary(run_in_process(cuda_spec(precision=precision, epochs=4), digits_dir, tmp_path))
    assert values["test/accuracy"] > 0.5
    assert ("amp/final_scale" in values) == (precision == "fp16")


@pytest.mark.parametrize("pipeline", ["gather", "loader"])
def test_pinned_runs_equal_pageable_ones(pipeline: str, digits_dir: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"deterministic": True, "input_pipeline": pipeline, "num_workers": 1}
    runs = [
        summary(run_in_process(cuda_spec(pin_memory=on, non_blocking=on, **common), digits_dir, tmp_path / str(on)))
        for on in (False, True)
    ]
    assert runs[0]["test/accuracy"] == pytest.approx(runs[1]["test/accuracy"], abs=0.021)


def test_out_of_memory_is_an_outcome(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = worker.models.build

    def greedy(*args: Any) -> Any:
        model = original(*args)
        model.register_forward_pre_hook(lambda *_: torch.empty(2**44, device="cuda") if on_cuda(model) else None)
        return model

    def on_cuda(model: torch.nn.Module) -> bool:
        return next(model.parameters()).device.type == "cuda"

    monkeypatch.setattr(worker.models, "build", greedy)
    end = end_of(run_in_process(cuda_spec(), digits_dir, tmp_path))
    assert end.outcome == "oom" and "out of memory" in str(end.error)


def test_window_durations_add_up_to_the_training_time(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters: list[Any] = []
    original = trainer.Meter

    def build(*args: Any) -> Any:
        meters.append(original(*args))
        return meters[-1]

    monkeypatch.setattr(trainer, "Meter", build)
    values = summary(run_in_process(cuda_spec(epochs=6, warmup_windows=0), digits_dir, tmp_path))
    total = sum(meters[0].clock.durations)
    assert total == pytest.approx(values["time/train_seconds"], rel=0.05)
    budget = [value for name, value in values.items() if name.startswith("budget/")]
    assert min(budget) >= 0 and sum(budget) == pytest.approx(values["time/train_seconds"], rel=0.05)


def test_memory_and_energy_are_measured(digits_dir: Path, tmp_path: Path) -> None:
    values = summary(run_in_process(cuda_spec(epochs=6), digits_dir, tmp_path))
    assert 0 < values["memory/gpu_peak_allocated_mib"] <= values["memory/gpu_peak_reserved_mib"]
    handle = nvml.handle_of(str(torch.cuda.get_device_properties(0).uuid))
    if handle is None or nvml.energy_joules(handle) is None:
        assert "energy/gpu_joules" not in values, "absent, not zero"
    else:
        assert values["energy/gpu_joules"] >= 0


def test_memory_peak_is_of_training_alone(digits_dir: Path, tmp_path: Path) -> None:
    ballast = torch.empty(2**28, device="cuda")
    del ballast
    small = summary(run_in_process(cuda_spec(), digits_dir, tmp_path / "small"))
    large = summary(run_in_process(cuda_spec(batch_size=512), digits_dir, tmp_path / "large"))
    peaks = [values["memory/gpu_peak_allocated_mib"] for values in (small, large)]
    assert peaks[0] < 1024 and peaks[1] > peaks[0]


def test_a_worker_process_trains_on_its_gpu(digits_dir: Path, tmp_path: Path) -> None:
    gpus = [gpu.uuid for gpu in nvml.gpus()] or os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    launcher = LocalLauncher("cuda", gpus=gpus[:1], jobs=1, data_dir=digits_dir, work_dir=tmp_path / "work")
    launcher.preflight([cuda_spec()])
    for seed in (1, 2):
        records = list(launcher.launch(cuda_spec().model_copy(update={"seed": seed})))
        assert end_of(records).outcome == "finished"
        assert summary(records)["memory/gpu_peak_allocated_mib"] > 0


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"precision": "fp16", "scaler_init_scale": 2.0**20, "scaler_growth_interval": 4}),
        ("test_resnet", {"precision": "fp16", "fused_optimizer": True, "pin_memory": True, "non_blocking": True}),
        ("test_vit", {"precision": "bf16", "optimizer": "sgd"}),
        ("test_vit", {"compile": "default"}),
        ("test_efficientnet", {"channels_last": True, "input_pipeline": "device"}),
    ],
)
def test_replayed_graphs_train_as_eager_calls(
    model: str, recipe: dict[str, Any], digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partial window, short micro-batch, scaler, clipping: the curves of both runs, and the count of replays."""
    made: list[graphs.Graphs] = []
    original = graphs.record
    monkeypatch.setattr(graphs, "record", lambda *arguments: made.append(original(*arguments)) or made[-1])
    fields = {"accumulation_steps": 4, "epochs": 3, "clip_norm": 1.0, "deterministic": True, **recipe}
    curves = []
    for on in (False, True):
        spec = cuda_spec(model=model, cuda_graph=on, **fields)
        records = run_in_process(spec, digits_dir, tmp_path / str(on))
        assert end_of(records).outcome == "finished", end_of(records).error
        curves.append([values["train/loss"] for values in per_epoch(records).values()])
        curves[-1].append(summary(records)["updates/count"])
        if on:
            assert summary(records)["time/compile_seconds"] > 0
    # 1024 samples less a tenth, in micro-batches of 64: 15 an epoch, the last one short
    assert [found.replays for found in made] == [3 * 15]
    assert curves[1] == pytest.approx(curves[0], rel=2e-3 if "precision" not in recipe else 2e-2)


def test_recording_leaves_weights_statistics_and_generators() -> None:
    device = torch.device("cuda", 0)
    torch.manual_seed(3)
    model = models.build("test_resnet", Recipe(image_size=16), 10).to(device)
    recipe = Recipe(image_size=16, cuda_graph=True, precision="fp16")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.cuda.get_rng_state(device)
    with untouched(model, device):
        made = graphs.record(
            model,
            torch.nn.CrossEntropyLoss(),
            Precision(recipe, device),
            recipe,
            [32, 7],
            device,
            graphs.CudaRecorder(device),
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.cuda.get_rng_state(device))
    assert made.hidden_bytes > 0
    images, labels = torch.rand(7, 3, 16, 16, device=device), torch.arange(7, device=device)
    made.forward(images, labels, 1.0)
    made.backward()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved and all("running_" in name or "num_batches" in name for name in moved)
    tracked = {int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    assert tracked == {1}


def test_checkpointing_saves_device_memory(digits_dir: Path, tmp_path: Path) -> None:
    runs = [
        summary(
            run_in_process(
                cuda_spec(model="test_vit", batch_size=512, image_size=64, grad_checkpoint=on),
                digits_dir,
                tmp_path / str(on),
            )
        )
        for on in (False, True)
    ]
    peaks = [values["memory/gpu_peak_allocated_mib"] for values in runs]
    assert peaks[1] < 0.9 * peaks[0]
    assert runs[1]["test/accuracy"] == pytest.approx(runs[0]["test/accuracy"], abs=0.05)
