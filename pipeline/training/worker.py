"""Child half of a run: job -> environment -> data, model -> drained trainer -> records to the parent.

Imported by the fork server before the first run, so that a run does not pay for imports; CUDA stays untouched
until a forked child opens it.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from pipeline.design.names import (
    BATCHNORM_TAG,
    CLASSES_TAG,
    FLOPS_PER_IMAGE,
    LEFT_OUT_TAG,
    PARAMETERS_TAG,
    PARTS_TAG,
    SETUP_SECONDS,
    TEST_IMAGES_TAG,
    TOTAL_SECONDS,
    TRAIN_IMAGES_TAG,
    VALIDATION_IMAGES_TAG,
)
from pipeline.design.records import NO_TURN, Artifact, End, Job, Metrics, Outcome, Phase, Record, Tags, TurnOrder
from pipeline.design.spec import RunSpec
from pipeline.errors import AblateError, first_line, not_allowed
from pipeline.training import environment, models, onednn, ranks
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.confusion_plot import draw_confusion
from pipeline.training.data import inputs, store
from pipeline.training.data.split import derive
from pipeline.training.data_parallel import SINGLE_PROCESS, ProcessGroup
from pipeline.training.losses import DivergedError
from pipeline.training.scores import confusion
from pipeline.training.trainer import TrainResult, train
from pipeline.training.turns import train_in_turns

Emit = Callable[[Record], None]
StartSignal = Callable[[], bytes]


def run_job(job: Job, emit: Emit, began: float | None = None, start_signal: StartSignal | None = None) -> None:
    """Runs one job to its end; the last record is always an `End`.

    The phase `done` says that everything that is measured is over: what follows may share the machine.

    Args:
        job: the run and its folders on this host.
        emit: takes each record.
        began: `time.monotonic()` of this machine at launch, s, for the set-up time; default now.
        start_signal: returns when training may start (the run before this one may still be ending); default at once.
            Of a cell that takes turns it returns with each turn's order after that, and with `NO_TURN` at the end.
    """
    began = time.monotonic() if began is None else began
    if job.spec.nproc > 1:
        if start_signal is not None:
            start_signal()
        emit(ranks.run_ranks(job, lambda: _rank(job, emit, began), classify))
        return
    try:
        _run(job, emit, began, SINGLE_PROCESS, start_signal)
    except Exception as error:  # whatever a run raises is its outcome, and the grid goes on
        traceback.print_exc()
        outcome, message = classify(error)
        emit(End(time=time.time(), outcome=outcome, error=message))
    else:
        emit(End(time=time.time(), outcome="finished"))


# The CPU allocator and the CUDA libraries raise a plain RuntimeError. cuBLAS cannot make its handle, and cuDNN finds
# no algorithm whose workspace fits, when the device is full: neither names memory.
_EXHAUSTED = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
)


def classify(error: BaseException) -> tuple[Outcome, str]:
    """Outcome and one-line message of what a run raised; out of memory is an outcome of its own.

    What an error came from counts too: while one for memory passes through a capture of a CUDA graph, the end of
    the capture raises another one over it.
    """
    exhausted = next(filter(_is_exhaustion, _with_causes(error)), None)
    if exhausted is not None:
        return "oom", first_line(exhausted, 500)
    text = first_line(error, 10_000)
    if isinstance(error, DivergedError | AblateError):
        return "failed", text[:500]
    return "failed", f"{type(error).__name__}: {text}"[:500]


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from or over."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            over = None if current.__suppress_context__ else current.__context__
            waiting += [other for other in (current.__cause__, over) if other is not None]


def _is_exhaustion(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _EXHAUSTED)


def _rank(job: Job, emit: Emit, began: float) -> None:
    """One process of several; the first one reports."""
    try:
        group = ProcessGroup.join(job.spec.device == "cuda")
        _run(job, emit if group.is_main_process else lambda _record: None, began, group, None)
    except BaseException:
        traceback.print_exc()
        raise


def _run(job: Job, emit: Emit, began: float, group: ProcessGroup, start_signal: StartSignal | None) -> None:
    spec = job.spec
    waiting = _Waiting(start_signal)
    emit(Phase(time=time.time(), name="setup"))
    environment.prepare_process(spec)
    source = store.prepare_run(spec, Path(job.data_dir))
    _same_data(spec, source)
    classes = len(source.class_names)
    # data preparation may have drawn random numbers; initial weights depend on the seed alone
    environment.seed_all(spec.seed)
    model = models.build_model(spec.model, spec.recipe, classes)
    onednn.avoid_strided_pixels(model, spec)
    flops = job.flops_per_image
    if flops is None:
        flops = models.training_flops_per_image(spec.model, spec.recipe, classes)
    if spec.device == "cuda":
        waiting()  # the run before this one may have filled the device: there is no room for a second context
    device = environment.open_device(spec, group.rank)
    data = inputs.build_inputs(spec, source, device)
    try:
        emit(Tags(time=time.time(), values=_facts(spec, source, model, data, device)))
        environment.seed_all(spec.seed if group.is_main_process else derive(spec.seed, group.rank) % 2**31)
        waiting()
        setup = time.monotonic() - began - waiting.seconds
        if spec.turns is not None:
            emit(Metrics(time=time.time(), values={SETUP_SECONDS: setup, **_counted(flops)}))
            _drain(train_in_turns(spec, model, data, device, orders(start_signal)), emit)
            return
        checkpoints = Checkpoints(Path(job.work_dir, "checkpoint.pt"), spec.digest, job.checkpoint_every)
        result = _drain(train(spec, model, data, device, checkpoints, group), emit)
        emit(Phase(time=time.time(), name="done"))
        if result is not None:
            matrix = confusion(result.labels, result.logits.argmax(axis=1), data.num_classes)
            draw_confusion(matrix, data.class_names, Path(job.work_dir, "confusion.png"))
            emit(Artifact(time=time.time(), path="confusion.png", folder="figures"))
        total = time.monotonic() - began - waiting.seconds
        emit(Metrics(time=time.time(), values={SETUP_SECONDS: setup, TOTAL_SECONDS: total, **_counted(flops)}))
        if group.is_main_process:
            checkpoints.discard()
    finally:
        data.close()


def _counted(flops: float | None) -> dict[str, float]:
    return {FLOPS_PER_IMAGE: flops} if flops is not None and math.isfinite(flops) and flops > 0 else {}


def orders(start_signal: StartSignal | None) -> Iterator[TurnOrder]:
    """The orders of a cell that takes turns, until there is no further one.

    Args:
        start_signal: see `run_job`.
    """
    return map(TurnOrder.model_validate_json, iter(start_signal, NO_TURN) if start_signal else ())


def _same_data(spec: RunSpec, source: store.ImageStore | store.FolderSource) -> None:
    """Refuses a folder that has changed since the run was planned: the run's identity would be another's."""
    listing = source.listing
    if spec.data_digest and listing is not None and listing.digest != spec.data_digest:
        raise not_allowed("dataset", spec.dataset, "a folder that does not change between plan and run")


class _Waiting:
    """Waits for the start signal the first time that it is called; `seconds` is how long, no part of the run."""

    def __init__(self, start_signal: StartSignal | None) -> None:
        self._start_signal = start_signal
        self.seconds = 0.0

    def __call__(self) -> None:
        if self._start_signal is not None:
            began = time.monotonic()
            self._start_signal()
            self.seconds, self._start_signal = time.monotonic() - began, None


def _facts(
    spec: RunSpec,
    source: store.ImageStore | store.FolderSource,
    model: torch.nn.Module,
    data: inputs.Inputs,
    device: torch.device,
) -> dict[str, str]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {
        **environment.run_provenance(spec, device),
        BATCHNORM_TAG: str(models.has_batchnorm(model)).lower(),
        PARAMETERS_TAG: str(parameters),
        CLASSES_TAG: str(data.num_classes),
        TRAIN_IMAGES_TAG: str(data.train.num_samples),
        VALIDATION_IMAGES_TAG: str(data.validation.num_samples if data.validation is not None else 0),
    }
    if spec.probe is None and spec.turns is None:  # others never touch the test set
        facts[TEST_IMAGES_TAG] = str(data.test.num_samples)
    if source.listing is not None:
        told = {
            "env.passed_over": source.listing.passed_over,
            PARTS_TAG: source.listing.parts,
            LEFT_OUT_TAG: source.listing.skipped_unreadable,
        }
        facts |= {name: text for name, text in told.items() if text}
        for remark in source.listing.remarks:
            print(f"{spec.dataset}: {remark}")  # into the run's log
    return facts


def _drain(records: Any, emit: Emit) -> TrainResult | None:
    """Passes a trainer's records on and returns its result."""
    generator = cast(Generator[Record, None, TrainResult | None], records)
    while True:
        try:
            emit(next(generator))
        except StopIteration as stop:
            return cast(TrainResult | None, stop.value)
