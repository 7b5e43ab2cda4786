"""A run from specification to records, in this process: pairing, reproducibility, times, accuracy, outcomes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.design import plan
from pipeline.design import study as studies
from pipeline.design.records import Artifact, Job, Metrics, Phase, Tags
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import environment, models, trainer, warmup, worker
from pipeline.training.data import inputs
from pipeline.training.data.inputs import EvalInput, Inputs, TrainInput
from pipeline.training.losses import DivergedError, mean_loss
from pipeline.training.step import plan_windows
from tests.support.training import end_of, per_epoch, reproducible, run_in_process, small_spec, summary


class Wrapped:
    """Passes everything on to another input."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def wrap_inputs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a test put wrappers around a run's inputs."""

    def install(change: Any) -> None:
        original = inputs.build_inputs
        monkeypatch.setattr(worker.inputs, "build_inputs", lambda *args: change(original(*args)))

    return install


@dataclass
class Seen:
    """What a run started from, and the samples it was given, in order."""

    weights: dict[str, Tensor]
    samples: list[tuple[bytes, int]]


class SpyTrain(Wrapped):
    def epoch(self, epoch: int, sizes: Sequence[int]) -> Iterator[Any]:
        for batch in self.inner.epoch(epoch, sizes):
            for image, label in zip(batch.images, batch.labels, strict=True):
                self.samples.append((image.numpy().tobytes(), int(label)))
            yield batch


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, digits_dir: Path, tmp_path: Path, wrap_inputs: Any) -> Any:
    """Runs a spec; returns what it saw."""
    samples: list[tuple[bytes, int]] = []
    weights: dict[str, Tensor] = {}

    def spied(data: Inputs) -> Inputs:
        train = SpyTrain(data.train)
        train.samples = samples
        return replace(data, train=train)

    original = worker.train

    def starting(spec: RunSpec, model: nn.Module, *rest: Any) -> Any:
        weights.update({name: value.clone() for name, value in model.state_dict().items()})
        return original(spec, model, *rest)

    wrap_inputs(spied)
    monkeypatch.setattr(worker, "train", starting)

    def run(spec: RunSpec) -> Seen:
        samples.clear()
        weights.clear()
        records = run_in_process(spec, digits_dir, tmp_path / spec.digest)
        assert end_of(records).outcome == "finished"
        return Seen(dict(weights), list(samples))

    return run


def test_paired_cells_start_alike_and_see_the_same_data(watched: Any) -> None:
    study = studies.Study.model_validate(
        {
            "name": "paired",
            "models": ["test_resnet"],
            "datasets": ["digits"],
            "techniques": ["ga", "amp", "pm", "channels_last", "fused"],
            "seeds": 2,
            "recipe": small_spec(epochs=2, max_train_samples=40, max_test_samples=20).recipe.model_dump(),
        }
    )
    wanted = {"baseline", "ga", "amp", "pm", "fused", "channels_last", "ga+amp+pm+channels_last+fused"}
    runs = plan.build_plan(study, "cpu").runs
    first = {run.spec.label: run.spec for run in runs if run.block == 0 and run.spec.label in wanted}
    other = next(run.spec for run in runs if run.block == 1 and run.spec.label == "baseline")
    base = watched(first.pop("baseline"))
    assert len(first) == 6 and len(base.samples) == 80
    assert base.samples[:40] != base.samples[40:] and sorted(base.samples[:40]) == sorted(base.samples[40:])
    for label, spec in first.items():
        seen = watched(spec)
        assert seen.samples == base.samples, label
        assert all(torch.equal(value, base.weights[name]) for name, value in seen.weights.items()), label
    replicate = watched(other)
    assert replicate.samples != base.samples, "another block has another order"
    assert any(not torch.equal(value, base.weights[name]) for name, value in replicate.weights.items())


@pytest.mark.parametrize("pipeline", ["gather", "loader", "device"])
def test_two_runs_of_a_spec_give_equal_metrics(pipeline: str, digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=2, augmentation="crop_flip", label_smoothing=0.1, input_pipeline=pipeline, num_workers=0)
    first, second = (run_in_process(spec, digits_dir, tmp_path / name) for name in ("a", "b"))
    assert end_of(first).outcome == end_of(second).outcome == "finished"
    assert reproducible(summary(first)) == reproducible(summary(second))
    epochs = [{k: reproducible(v) for k, v in per_epoch(records).items()} for records in (first, second)]
    assert epochs[0] == epochs[1] and set(epochs[0]) == {1, 2}
    other = run_in_process(spec.model_copy(update={"seed": 4}), digits_dir, tmp_path / "c")
    assert reproducible(summary(other)) != reproducible(summary(first))


def test_records_of_a_run(digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=3, eval_every=2)
    records = run_in_process(spec, digits_dir, tmp_path / "work")
    assert [record.name for record in records if isinstance(record, Phase)] == ["setup", "train", "evaluate", "done"]
    assert [record.time for record in records] == sorted(record.time for record in records)
    tags = {name: value for record in records if isinstance(record, Tags) for name, value in record.values.items()}
    assert tags["ablate.batchnorm"] == "true" and int(tags["ablate.parameters"]) > 1000
    assert tags["env.device"] == "cpu" and tags["env.torch_threads"] == "1"
    epochs = per_epoch(records)
    training = {"train/loss", "train/epoch_seconds", "train/images_per_second"}
    validation = {"val/loss", "val/accuracy", "val/f1_macro"}
    assert [set(epochs[epoch]) for epoch in (1, 2, 3)] == [training, training | validation, training | validation]
    assert [record.path for record in records if isinstance(record, Artifact)] == ["confusion.png"]
    assert (tmp_path / "work" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    values = summary(records)
    contract = {
        *(f"test/{name}" for name in ("accuracy", "f1_macro", "precision_macro", "recall_macro")),
        *(f"time/{name}_seconds" for name in ("train", "eval", "setup", "total")),
        *("throughput/images_per_second", "throughput/updates_per_second", "step/p50_ms", "step/p95_ms"),
        *(f"budget/{name}_seconds" for name in ("data_wait", "h2d", "forward", "backward", "optimizer", "idle")),
        *("memory/host_peak_rss_mib", "updates/count"),
    }
    assert contract <= set(values)
    assert not [name for name in values if name.startswith(("amp/", "energy/")) or "gpu" in name]
    assert values["updates/count"] == 9 and "test/top5_accuracy" not in values


def test_top_5_of_100_classes(digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(dataset="digits100", max_train_samples=200, max_test_samples=200, batch_size=100)
    values = summary(run_in_process(spec, digits_dir, tmp_path))
    assert 0 <= values["test/accuracy"] <= values["test/top5_accuracy"] <= 1


def test_times_of_a_run(digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=3)
    began = time.time()
    records = run_in_process(spec, digits_dir, tmp_path)
    wall = time.time() - began
    values = summary(records)
    epochs = per_epoch(records)
    assert values["time/train_seconds"] == pytest.approx(sum(epochs[n]["train/epoch_seconds"] for n in epochs))
    parts = values["time/setup_seconds"] + values["time/train_seconds"] + values["time/eval_seconds"]
    assert parts <= values["time/total_seconds"] <= wall
    budget = [value for name, value in values.items() if name.startswith("budget/")]
    assert min(budget) >= 0 and sum(budget) == pytest.approx(values["time/train_seconds"], rel=1e-6)
    for epoch in epochs.values():
        rate = epoch["train/images_per_second"] * epoch["train/epoch_seconds"]
        assert rate == pytest.approx(96), "images of an epoch"


class Slow(Wrapped):
    def __iter__(self) -> Iterator[Any]:
        time.sleep(1.0)
        return iter(self.inner)


def check_disjoint(values: dict[str, float], elsewhere: float = 0.0) -> None:
    """The times of a run and what took seconds elsewhere are parts of the whole: nothing is counted twice.

    A sum instead of a limit for each, which a loaded machine would exceed.
    """
    parts = [values.get(f"time/{name}_seconds", 0.0) for name in ("setup", "warmup", "compile", "train", "eval")]
    assert sum(parts) + elsewhere <= values["time/total_seconds"] + 0.02, "two clocks"


def test_sleeping_in_evaluation_is_no_training_time(digits_dir: Path, tmp_path: Path, wrap_inputs: Any) -> None:
    wrap_inputs(lambda data: replace(data, validation=Slow(data.validation), test=Slow(data.test)))
    values = summary(run_in_process(small_spec(epochs=2), digits_dir, tmp_path))
    assert values["time/eval_seconds"] >= 3.0, "two validations and one test"
    check_disjoint(values)
    images = 2 * 96 - 32 * values["throughput/warmup_windows"]
    assert images / values["throughput/images_per_second"] <= values["time/train_seconds"]


def test_a_slow_reader_of_records_is_no_training_time(digits_dir: Path, tmp_path: Path) -> None:
    slept: list[float] = []

    def watch(record: Any) -> None:
        if isinstance(record, Metrics):
            began = time.perf_counter()
            time.sleep(1.0)
            slept.append(time.perf_counter() - began)

    values = summary(run_in_process(small_spec(epochs=2), digits_dir, tmp_path, watch=watch))
    assert len(slept) == 4, "two epochs, the trainer's summary, and the worker's, which has the times"
    check_disjoint(values, elsewhere=sum(slept[:3]))


def test_the_test_set_is_read_once_at_the_end(digits_dir: Path, tmp_path: Path, wrap_inputs: Any) -> None:
    reads: list[str] = []

    class Counted(Wrapped):
        def __init__(self, inner: EvalInput, name: str) -> None:
            super().__init__(inner)
            self.name = name

        def __iter__(self) -> Iterator[Any]:
            reads.append(self.name)
            return iter(self.inner)

    wrap_inputs(
        lambda data: replace(data, validation=Counted(data.validation, "validation"), test=Counted(data.test, "test"))
    )
    run_in_process(small_spec(epochs=3), digits_dir, tmp_path)
    assert reads == ["validation"] * 3 + ["test"]


def test_compilation_is_timed_apart(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowOnce(nn.Module):
        def __init__(self, plain: nn.Module) -> None:
            super().__init__()
            self.plain = plain
            self.slept = False

        def forward(self, images: Tensor) -> Any:
            if not self.slept:
                self.slept = True
                time.sleep(1.0)
            return self.plain(images)

    plain = summary(run_in_process(small_spec(), digits_dir, tmp_path / "plain"))
    monkeypatch.setattr(warmup.torch, "compile", lambda model, **_: SlowOnce(model))
    values = summary(run_in_process(small_spec(compile="default"), digits_dir, tmp_path / "compiled"))
    assert values["time/compile_seconds"] >= 1.0
    check_disjoint(values)
    assert "time/compile_seconds" not in plain
    assert reproducible(values) == reproducible(plain), "the warm-up changed nothing that training sees"


def test_skipped_fp16_updates_are_counted(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules: list[Any] = []
    original = trainer.build_schedule

    def build(*args: Any) -> Any:
        schedules.append(original(*args))
        return schedules[-1]

    monkeypatch.setattr(trainer, "build_schedule", build)
    spec = small_spec(
        epochs=2,
        precision="fp16",
        scaler_init_scale=2.0**18,
        max_train_samples=64,
        max_test_samples=20,
        batch_size=4,
        accumulation_steps=2,
        schedule="cosine",
    )
    records = run_in_process(spec, digits_dir, tmp_path)
    assert end_of(records).outcome == "finished"
    values = summary(records)
    skipped = values["amp/skipped_steps"]
    assert 0 < skipped < 16
    assert values["updates/count"] == 16 - skipped == schedules[0].last_epoch
    assert values["amp/final_scale"] == 2.0 ** (18 - skipped)


QUICKSTART = {
    run.spec.model: run.spec
    for run in plan.build_plan(studies.load_study("quickstart"), "cpu").cells
    if run.spec.dataset == "digits" and run.spec.label == "baseline"
}


@pytest.mark.parametrize(("model", "least"), [("test_resnet", 0.9), ("test_efficientnet", 0.9), ("test_vit", 0.75)])
def test_accuracy_of_the_quickstart_baselines(model: str, least: float, digits_dir: Path, tmp_path: Path) -> None:
    records = run_in_process(QUICKSTART[model], digits_dir, tmp_path)
    values = summary(records)
    print(model, values["test/accuracy"], values["time/train_seconds"])
    assert values["test/accuracy"] >= least
    losses = [epoch["train/loss"] for epoch in per_epoch(records).values()]
    assert losses[-1] < losses[0]
    windows = plan_windows(1347 - 135, QUICKSTART[model].recipe.batch_size, 1)
    assert values["updates/count"] == len(windows) * QUICKSTART[model].recipe.epochs


def test_a_diverging_loss_names_epoch_and_step(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = trainer.optimizer_step

    def poisoned(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return original(*args) * (float("nan") if calls == 5 else 1.0)  # 3 windows an epoch

    monkeypatch.setattr(trainer, "optimizer_step", poisoned)
    end = end_of(records := run_in_process(small_spec(epochs=3), digits_dir, tmp_path))
    assert (end.outcome, end.error) == ("failed", "loss is nan in epoch 2, step 2 of 3")
    assert set(per_epoch(records)) == {1} and summary(records) == {}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_rate_that_destroys_the_model_fails_the_run(precision: str, digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(
        "test_vit",
        epochs=4,
        patch_size=8,
        optimizer="sgd",
        learning_rate=1e30,
        precision=precision,
        batch_size=16,
        max_train_samples=32,
    )
    end = end_of(run_in_process(spec, digits_dir, tmp_path))
    assert end.outcome == "failed" and end.error is not None and "epoch" in end.error
    assert "loss is" in end.error or "skipped" in end.error


INSIDE = "INTERNAL_ERROR_DEVICE"


def raised(error: Exception) -> Any:
    raise error


def over(error: Exception) -> Any:
    """Another error on top of one, as the end of a capture raises it."""
    try:
        raise error
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize(
    ("fail", "outcome", "words"),
    [
        (lambda: torch.empty(2**55), "oom", "can't allocate memory"),
        (lambda: bytearray(2**60), "oom", "MemoryError"),
        (lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried")), "oom", "out of memory"),
        (lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: out of memory\nmore")), "oom", "out of memory"),
        (lambda: raised(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling")), "oom", "CUBLAS"),
        (lambda: raised(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), "oom", "CUDNN"),
        (lambda: raised(RuntimeError(f"cuDNN error: CUDNN_STATUS_{INSIDE}_ALLOCATION_FAILED")), "oom", "CUDNN"),
        (lambda: raised(RuntimeError("GET was unable to find an engine to execute this computation")), "oom", "engine"),
        (lambda: over(torch.OutOfMemoryError("CUDA out of memory. Tried to")), "oom", "out of memory. Tried"),
        (lambda: over(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), "oom", "ALLOC_FAILED"),
        (lambda: over(KeyError("nothing")), "failed", "operation failed due to a previous error during capture"),
        (lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), "failed", "mat1 and mat2"),
        (lambda: (_ for _ in ()).throw(KeyError("nothing")), "failed", "KeyError"),
        (lambda: (_ for _ in ()).throw(ValueError("we ran out of memory lane")), "failed", "ValueError"),
    ],
)
def test_outcome_of_what_a_run_raises(
    fail: Any, outcome: str, words: str, digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_args: Any) -> nn.Module:
        list(fail())
        raise AssertionError("unreachable")

    monkeypatch.setattr(worker.models, "build_model", build)
    end = end_of(run_in_process(small_spec(), digits_dir, tmp_path))
    assert end.outcome == outcome and words in str(end.error) and "\n" not in str(end.error)


def test_a_cuda_run_without_a_device_fails(digits_dir: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    end = end_of(run_in_process(small_spec().model_copy(update={"device": "cuda"}), digits_dir, tmp_path))
    assert end.outcome == "failed" and "no CUDA device" in str(end.error)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_device_is_opened_when_the_run_before_has_left_it(
    device: str, digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context takes hundreds of MiB: with the device full it would be `oom`, for good, of a cell that fits."""
    order: list[str] = []
    original = environment.open_device

    def opened(spec: RunSpec, index: int = 0) -> torch.device:
        order.append("open")
        return original(spec.model_copy(update={"device": "cpu"}), index)

    build = models.build_model
    monkeypatch.setattr(environment, "open_device", opened)
    monkeypatch.setattr(models, "build_model", lambda *words: order.append("model") or build(*words))
    monkeypatch.setattr(worker, "train", lambda *_: raised(KeyError("far enough")))
    monkeypatch.setattr(environment, "run_provenance", lambda *_: {})
    spec = small_spec().model_copy(update={"device": device})
    job = Job(spec=spec, data_dir=str(digits_dir), work_dir=str(tmp_path), flops_per_image=1.0)
    worker.run_job(job, lambda _record: None, start_signal=lambda: order.append("signal"))
    assert order == (["model", "signal", "open"] if device == "cuda" else ["model", "open", "signal"])


def test_inputs_are_closed_whatever_happens(
    digits_dir: Path, tmp_path: Path, wrap_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Closing(Wrapped):
        def close(self) -> None:
            closed.append(True)
            self.inner.close()

    def spied(data: Inputs) -> Inputs:
        train: TrainInput = Closing(data.train)
        return replace(data, train=train)

    wrap_inputs(spied)
    monkeypatch.setattr(worker, "train", lambda *_: 1 / 0)
    assert end_of(run_in_process(small_spec(), digits_dir, tmp_path)).outcome == "failed"
    assert closed == [True]


def test_an_epoch_of_skipped_updates_is_no_divergence() -> None:
    """A scaler that starts too high skips its first updates, and finds its scale in the next epoch."""
    windows = plan_windows(12, 4, 1)
    losses = torch.tensor([1.0, 2.0, 3.0])
    assert mean_loss(losses, windows, [False, False, False], 1) == pytest.approx(2.0)
    assert mean_loss(losses, windows, [False, True, True], 1) == pytest.approx(2.5)
    losses[1] = float("inf")
    assert mean_loss(losses, windows, [True, False, True], 1) == pytest.approx(2.0)
    with pytest.raises(DivergedError, match="epoch 1, step 2 of 3"):
        mean_loss(losses, windows, [False, False, False], 1)


@pytest.mark.parametrize("value", [True, 2.5, "3"])
def test_counts_are_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="epochs"):
        Recipe.model_validate({"epochs": value})
