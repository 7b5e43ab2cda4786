"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline
from pipeline import nvml
from pipeline.design.spec import Recipe, RunSpec
from pipeline.design.techniques import TECHNIQUES
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.training import cuda_graphs, models, trainer, worker
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.meter import Meter
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import Precision, set_matmul_precision
from pipeline.training.step import Learner, Window, optimizer_step
from pipeline.training.warmup import preserving_state
from tests.support.training import end_of, per_epoch, run_in_process, small_spec, summary, told

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


CUDA = torch.device("cuda", 0)


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
    original = worker.models.build_model

    def greedy(*args: Any) -> Any:
        model = original(*args)
        model.register_forward_pre_hook(lambda *_: torch.empty(2**44, device="cuda") if on_cuda(model) else None)
        return model

    def on_cuda(model: torch.nn.Module) -> bool:
        return next(model.parameters()).device.type == "cuda"

    monkeypatch.setattr(worker.models, "build_model", greedy)
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


def test_memory_is_measured(digits_dir: Path, tmp_path: Path) -> None:
    values = summary(run_in_process(cuda_spec(epochs=6), digits_dir, tmp_path))
    assert 0 < values["memory/gpu_peak_allocated_mib"] <= values["memory/gpu_peak_reserved_mib"]
    assert values["time/warmup_seconds"] > 0 and "time/compile_seconds" not in values


def test_energy_is_measured_where_a_run_is_long_enough() -> None:
    handle = nvml.handle_of(str(torch.cuda.get_device_properties(0).uuid))
    meter = Meter(CUDA, 0, DeviceMemory(CUDA))
    square = torch.rand(4096, 4096, device=CUDA)
    meter.start_training()
    began = time.perf_counter()
    while time.perf_counter() - began < 2.5:
        square = (square @ square).clamp(-1, 1)
        torch.cuda.synchronize()
    meter.end_window(1)
    meter.end_training()
    values = meter.summary()
    if handle is None or nvml.energy_joules(handle) is None:
        assert "energy/gpu_joules" not in values, "absent, not zero"
    else:
        assert 2.5 * 50 < values["energy/gpu_joules"] < 2.5 * 1500, "between 50 and 1,500 W"


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
    """Partial window, short micro-batch, scaler, clipping: the curves of both runs, and the count of replays.

    1,100 samples in micro-batches of 64 are 18, the last of 12; in windows of 4 they are 5, the last of 2.
    """
    made: list[cuda_graphs.CapturedGraphs] = []
    original = cuda_graphs.capture
    monkeypatch.setattr(cuda_graphs, "capture", lambda *arguments: made.append(original(*arguments)) or made[-1])
    fields = {
        "max_train_samples": 1100,
        "accumulation_steps": 4,
        "epochs": 3,
        "clip_norm": 1.0,
        "deterministic": True,
        **recipe,
    }
    curves = []
    for on in (False, True):
        spec = cuda_spec(model=model, cuda_graph=on, **fields)
        records = run_in_process(spec, digits_dir, tmp_path / str(on))
        assert end_of(records).outcome == "finished", end_of(records).error
        curves.append([values["train/loss"] for values in per_epoch(records).values()])
        curves[-1].append(summary(records)["updates/count"])
        if on:
            assert summary(records)["time/compile_seconds"] > 0
    assert [found.replays for found in made] == [3 * 18]
    assert curves[1] == pytest.approx(curves[0], rel=2e-3 if "precision" not in recipe else 2e-2)


def test_recording_leaves_weights_statistics_and_generators() -> None:
    device = torch.device("cuda", 0)
    torch.manual_seed(3)
    model = models.build_model("test_resnet", Recipe(image_size=16), 10).to(device)
    recipe = Recipe(image_size=16, cuda_graph=True, precision="fp16")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.cuda.get_rng_state(device)
    with preserving_state(model, device):
        made = cuda_graphs.capture(
            model,
            torch.nn.CrossEntropyLoss(),
            Precision(recipe, device),
            recipe,
            [32, 7],
            device,
            cuda_graphs.CudaRecorder(device),
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


class Ready:
    """Batches that lie on the device already."""

    def to_device(self, batch: Any) -> Any:
        return batch

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize(
    ("precision", "fused"), [("fp32", False), ("fp32", True), ("bf16", False), ("fp16", True), ("tf32", True)]
)
def test_no_update_waits_for_the_device(precision: str, fused: bool, clip_norm: float | None) -> None:
    recipe = Recipe(precision=precision, fused_optimizer=fused, clip_norm=clip_norm, image_size=32)
    model = models.build_model("test_resnet", recipe, 10).to(CUDA)
    optimizer = build_optimizer(model, "test_resnet", recipe)
    made = Precision(recipe, CUDA)
    made.watch(optimizer)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    learner = Learner(model, torch.nn.CrossEntropyLoss(), optimizer, schedule, made, clip_norm)
    batch = torch.rand(16, 3, 32, 32, device=CUDA), torch.arange(16, device=CUDA) % 10

    def update() -> None:
        optimizer_step(learner, Window((16, 16)), iter([batch, batch]), Ready(), lambda _phase: None)

    update()
    made.settle()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            update()
        outcomes = made.outcomes()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(outcomes) == 4 and schedule.last_epoch == sum(outcomes)


def test_the_first_epoch_is_no_slower_than_the_next(digits_dir: Path, tmp_path: Path) -> None:
    """CuDNN's search for each shape, the short last one included, is over before the clock starts."""
    records = run_in_process(
        cuda_spec(model="resnet50", image_size=32, epochs=3, max_train_samples=1100), digits_dir, tmp_path
    )
    seconds = [values["train/epoch_seconds"] for values in per_epoch(records).values()]
    values = summary(records)
    print("epochs:", seconds, "warm-up:", values["time/warmup_seconds"])
    assert seconds[0] < 1.5 * min(seconds[1:]) + 0.1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_training_with_accumulation_equals_eager_training(mode: str, digits_dir: Path, tmp_path: Path) -> None:
    runs = []
    for compiled in ("off", mode):
        spec = cuda_spec(model="test_vit", patch_size=8, compile=compiled, accumulation_steps=4, epochs=3)
        records = run_in_process(spec, digits_dir, tmp_path / compiled)
        assert end_of(records).outcome == "finished", end_of(records).error
        runs.append(([v["train/loss"] for v in per_epoch(records).values()], summary(records)))
    assert runs[1][0] == pytest.approx(runs[0][0], rel=2e-3)
    assert runs[1][1]["time/compile_seconds"] > 0
    peaks = [values["memory/gpu_peak_allocated_mib"] for _, values in runs]
    assert peaks[1] > 0.3 * peaks[0], "the activations of replayed graphs are counted"


def test_tf32_goes_with_a_compiler_that_chooses_kernels() -> None:
    set_matmul_precision(tf32=True)
    try:
        product = torch.compile(lambda a, b: a @ b, mode="max-autotune-no-cudagraphs")
        a, b = torch.rand(128, 128, device=CUDA), torch.rand(128, 128, device=CUDA)
        torch.testing.assert_close(product(a, b), a @ b, rtol=1e-2, atol=1e-2)
    finally:
        set_matmul_precision(tf32=False)


@pytest.mark.parametrize(
    ("model", "batch", "size", "launch_bound"), [("test_resnet", 8, 16, True), ("resnet50", 64, 224, False)]
)
def test_what_bounds_a_step_is_told(
    model: str, batch: int, size: int, launch_bound: bool, digits_dir: Path, tmp_path: Path
) -> None:
    spec = cuda_spec(model=model, batch_size=batch, image_size=size, max_train_samples=640, eval_every=2)
    values = summary(run_in_process(spec, digits_dir, tmp_path))
    fraction = values["step/launch_bound_fraction"]
    assert fraction > 0.6 if launch_bound else fraction < 0.3


RANK = """
import os
from pipeline.host import process_environment
os.environ.update(process_environment())
from pathlib import Path
from pipeline.training import ranks, worker
from pipeline.design.records import Job; from pipeline.design.spec import RunSpec
from pipeline.training.data_parallel import ProcessGroup

def body():
    import torch
    group = ProcessGroup.join(True)
    value = torch.ones(4, device="cuda")
    torch.distributed.all_reduce(value)
    print("rank", group.rank, "of", group.size, value.sum().item(), flush=True)
    torch.distributed.destroy_process_group()

job = Job(spec=RunSpec(model="test_vit", dataset="digits", device="cuda"), data_dir=".", work_dir=".")
print(ranks.run_ranks(job, body, worker.classify).outcome)
"""


def test_a_rank_of_the_elastic_launcher_opens_the_gpu(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", RANK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(pipeline.__file__).parent.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.stdout.splitlines()[-2:] == ["rank 0 of 1 4.0", "finished"], found.stderr


@pytest.mark.parametrize(
    "technique", [name for name, row in TECHNIQUES.items() if "cuda" in row.devices and name != "grad_checkpoint"]
)
def test_each_technique_shows_that_it_acts(technique: str, digits_dir: Path, tmp_path: Path) -> None:
    spec = cuda_spec()
    row = TECHNIQUES[technique]
    spec = spec.model_copy(update={"recipe": row.apply(spec.recipe, row.default["cuda"])})
    records = run_in_process(spec, digits_dir, tmp_path)
    assert end_of(records).outcome == "finished"
    facts, missing = told(records)
    assert missing == {} and facts["update_norm"] > 0
    assert facts["pinned"] == spec.recipe.pin_memory or technique == "device_data"
    assert facts.get("recompiled", 0) == 0
    assert ("replays" in facts) == (technique == "cuda_graph") and facts.get("replays", 1) > 0


def test_pinned_pages_do_not_act_where_nothing_is_copied(digits_dir: Path, tmp_path: Path) -> None:
    _, missing = told(run_in_process(cuda_spec(pin_memory=True, input_pipeline="device"), digits_dir, tmp_path))
    assert set(missing) == {"pin_memory"}
