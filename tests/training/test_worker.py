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
from pipeline.design.records import Artifact, Job, Phase, Tags
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import environment, models, worker
from pipeline.training.data.inputs import Inputs, TrainInput
from tests.support.data import write_folder
from tests.support.training import Wrapped, end_of, per_epoch, run_in_process, small_spec, summary


@dataclass
class Seen:
    """What a run started from, and the samples it was given, in order."""

    weights: dict[str, Tensor]
    samples: list[tuple[bytes, int]]


class SpyTrain(Wrapped):
    samples: list[tuple[bytes, int]]

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


def test_a_clock_that_is_set_back_makes_no_time_negative(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By three days, again with each look at it."""
    now = [time.time()]

    def back() -> float:
        now[0] -= 3 * 86400
        return now[0]

    monkeypatch.setattr(time, "time", back)
    records = run_in_process(small_spec(), digits_dir, tmp_path)
    times = {name: value for name, value in summary(records).items() if name.startswith(("time/", "throughput/"))}
    assert times["time/total_seconds"] >= times["time/setup_seconds"] > 0 and min(times.values()) >= 0, times


def test_what_a_folder_has_beside_images_is_part_of_the_provenance(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    spec = small_spec(dataset=f"imagefolder:{root}", batch_size=4, max_train_samples=8, max_test_samples=6)
    records = run_in_process(spec, tmp_path / "data", tmp_path / "work")
    assert end_of(records).outcome == "finished"
    tags = {name: value for record in records if isinstance(record, Tags) for name, value in record.values.items()}
    assert tags["env.passed_over"] == "1 passed over: 1 .txt"


def test_records_of_a_run(digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=3, eval_every=2)
    records = run_in_process(spec, digits_dir, tmp_path / "work")
    assert [record.name for record in records if isinstance(record, Phase)] == ["setup", "train", "evaluate", "done"]
    assert [record.time for record in records] == sorted(record.time for record in records)
    tags = {name: value for record in records if isinstance(record, Tags) for name, value in record.values.items()}
    assert tags["ablate.batchnorm"] == "true" and int(tags["ablate.parameters"]) > 1000
    assert tags["env.device"] == "cpu" and tags["env.torch_threads"] == "1"
    sizes = {
        name: int(tags[f"data.{name}"]) for name in ("classes", "train_images", "validation_images", "test_images")
    }
    assert (sizes["classes"], sizes["test_images"]) == (10, 50) and sizes["train_images"] > sizes["validation_images"]
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


@pytest.mark.parametrize("value", [True, 2.5, "3"])
def test_counts_are_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="epochs"):
        Recipe.model_validate({"epochs": value})
