"""Small runs and their records, made by the tests."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.design.names import ENGAGEMENT_TAG, NOT_ENGAGED_TAG
from pipeline.design.records import End, Job, Metrics, Record, Tags
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import cuda_graphs, worker
from pipeline.training.device_memory import DeviceMemory

# what a clock or the operating system decides, and no seed
TIMINGS = ("time/", "throughput/", "step/", "budget/", "memory/", "train/epoch_seconds", "train/images_per_second")

T = TypeVar("T")


def small_spec(model: str = "test_resnet", dataset: str = "digits", seed: int = 3, **recipe: Any) -> RunSpec:
    """A run that takes well under a second; its recipe's defaults suit the tests."""
    fields = {
        "batch_size": 32,
        "max_train_samples": 96,
        "max_test_samples": 50,
        "image_size": 16,
        "eval_batch_size": 512,
        **recipe,
    }
    return RunSpec(model=model, dataset=dataset, seed=seed, recipe=Recipe(**fields))


def run_in_process(
    spec: RunSpec,
    data_dir: Path,
    work_dir: Path,
    checkpoint_every: int = 0,
    watch: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Runs a spec in this process; `watch` sees each record and may raise to interrupt the run."""
    work_dir.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []

    def emit(record: Record) -> None:
        records.append(record)
        if watch is not None:
            watch(record)

    job = Job(spec=spec, data_dir=str(data_dir), work_dir=str(work_dir), checkpoint_every=checkpoint_every)
    worker.run_job(job, emit)
    return records


def end_of(records: Iterable[Record]) -> End:
    """The one `End`, which is the last record."""
    listed = list(records)
    assert sum(isinstance(record, End) for record in listed) == 1
    last = listed[-1]
    assert isinstance(last, End)
    return last


def told(records: Iterable[Record]) -> tuple[dict[str, Any], dict[str, str]]:
    """What was seen of the techniques, and what did not act, as a run's last tags have them."""
    *_, last = [record.values for record in records if isinstance(record, Tags) and ENGAGEMENT_TAG in record.values]
    return json.loads(last[ENGAGEMENT_TAG]), json.loads(last[NOT_ENGAGED_TAG])


def summary(records: Iterable[Record]) -> dict[str, float]:
    """All summary metrics of a run."""
    values: dict[str, float] = {}
    for record in records:
        if isinstance(record, Metrics) and record.step is None:
            assert not set(record.values) & set(values), "a summary metric is sent once"
            values |= record.values
    return values


def per_epoch(records: Iterable[Record]) -> dict[int, dict[str, float]]:
    """Epoch -> its metrics."""
    return {record.step: record.values for record in records if isinstance(record, Metrics) and record.step is not None}


def reproducible(values: dict[str, float]) -> dict[str, float]:
    """The metrics that the seed decides."""
    return {name: value for name, value in values.items() if not name.startswith(TIMINGS)}


class PlainCopier:
    """The step's view of an input pipeline: batches are tensors already."""

    def to_device(self, batch: Any) -> tuple[Tensor, Tensor]:
        """No copy."""
        images, labels = batch
        return images, labels

    def prepare(self, images: Tensor) -> Tensor:
        """Nothing to do."""
        return images


def no_clock(_phase: str) -> None:
    """Measures nothing."""


@dataclass
class Batches:
    """Random micro-batches of the sizes of a plan."""

    sizes: list[int]
    features: int = 5
    classes: int = 3
    dtype: torch.dtype = torch.float64
    made: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        for size in self.sizes:
            images = torch.randn(size, self.features, generator=generator, dtype=self.dtype)
            self.made.append((images, torch.randint(self.classes, (size,), generator=generator)))


def perceptron(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small model without BatchNorm."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


class ClosureRecorder:
    """In place of CUDA graphs, on a CPU: a capture runs nothing, a replay calls again."""

    def __init__(self, _device: Any = None) -> None:
        self.captured = 0
        self.begun = False

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        assert not self.begun, "the eager iterations come before the capture"
        yield

    def begin(self) -> None:
        self.begun = True

    def capture(self, work: Callable[[], None]) -> cuda_graphs.Replay:
        assert self.begun
        self.captured += 1
        return work

    def hidden_bytes(self) -> int:
        return 0


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Allocator(DeviceMemory):
    """Stands for a GPU's: what a search for algorithms takes is kept until it is given back."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.calls: list[str] = []
        self.now, self.peak, self.grow = 100, 100, 0

    def allocated(self) -> int:
        return self.now

    def peak_allocated(self) -> int:
        return self.peak

    def reset_peaks(self) -> None:
        self.calls.append("reset")
        self.peak = self.now

    def release_unused(self) -> None:
        self.calls.append("release")


class Wrapped:
    """Passes everything on to another input."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def parallel_job(folder: Path, nproc: int) -> Job:
    """A job of `nproc` processes; nothing of it but the number and the folder is used."""
    spec = RunSpec(model="test_vit", dataset="digits", nproc=nproc)
    return Job(spec=spec, data_dir=str(folder), work_dir=str(folder))


def in_run_process(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a process like a run's own: forked, without a thread, from a fork server.

    What forks ranks is called here. From a test's process, whose libraries have threads and locks of tests before, some
    never start.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.execution.local.preload"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as process:
        return process.submit(function, *arguments).result()
