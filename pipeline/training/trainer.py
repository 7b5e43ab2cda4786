"""Training as a generator of records. It knows no tracker and no command line: records go out, nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.design.names import EPOCH_RATE, EPOCH_SECONDS, TEST_SCORE, TRAIN_LOSS, UPDATES, VAL_LOSS, VAL_SCORE
from pipeline.design.records import Metrics, Phase, Progress, Record, Tags
from pipeline.design.spec import RunSpec
from pipeline.design.turns import images_of_epoch
from pipeline.training import cuda_graphs
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.data.inputs import EvalInput, Inputs
from pipeline.training.data_parallel import SINGLE_PROCESS, ProcessGroup, accumulating
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.engagement import Engagement
from pipeline.training.environment import no_algorithm_search
from pipeline.training.losses import WindowLosses, check_loss, check_weights, mean_loss
from pipeline.training.meter import Meter
from pipeline.training.optimizer import build_optimizer, build_schedule
from pipeline.training.precision import Precision
from pipeline.training.scores import epoch_scores, final_scores
from pipeline.training.step import Learner, optimizer_step, plan_windows
from pipeline.training.stop_rule import StopRule
from pipeline.training.warmup import compile_model, preserving_state, rehearse_update, warm_up

PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class TrainResult:
    """What a finished run hands to its worker.

    Attributes:
        labels: labels of the test images, int64 (n,).
        logits: outputs of the model for them, float32 (n, classes).
    """

    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


def train(
    spec: RunSpec,
    model: nn.Module,
    inputs: Inputs,
    device: torch.device,
    checkpoints: Checkpoints | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Generator[Record, None, TrainResult | None]:
    """Trains, evaluates and tests one run; a measured trial (`spec.probe`) may end early and is not tested.

    Args:
        spec: the run.
        model: the initialised model, on the CPU.
        inputs: the run's training, validation and test batches.
        device: where the model trains.
        checkpoints: file to save to and to resume from; None for no checkpoints.
        group: the processes that train together; the main process evaluates, saves and tests.

    Yields:
        Phases, progress about once a second, metrics per epoch, and the summary metrics.

    Returns:
        A `TrainResult` (the generator's return value); None when the test set has not been read.

    Raises:
        DivergedError: a loss or a weight became infinite or no number; says the epoch. What was measured until then
            has been yielded.
    """
    run = Run(spec, model, inputs, device, group)
    epochs = run.recipe.epochs
    values: dict[str, float] = {}
    resumed = checkpoints.resume(lambda: run.state_dict([]) | {"epoch": 0}, run.restore) if checkpoints else None
    before, history = resumed or (0, [])
    yield from history
    yield Phase(time=time.time(), name="train")
    run.warm_up()
    epoch = before
    for epoch in range(before + 1, epochs + 1):
        values = yield from run.train_epoch(epoch)
        if group.is_main_process and inputs.validation is not None and run.stop_rule.validates(epoch):
            values |= run.validate(inputs.validation)
        record = Metrics(time=time.time(), step=epoch, values=values)
        history.append(record)
        yield record
        check_loss("validation", values.get(VAL_LOSS, 0.0), epoch)
        if group.is_main_process and checkpoints and checkpoints.due(epoch, epochs):
            checkpoints.save(epoch, run.state_dict(history))
        if run.stop_rule.stops_after_epoch(values):
            break
    check_weights(run.model, epoch)
    yield run.engaged()
    shared = group.combined(run.meter.summary())
    if not group.is_main_process:
        return None
    if spec.probe is not None:
        yield Metrics(time=time.time(), values=run.summary(None) | shared | run.stop_rule.summary(run.meter, values))
        return None
    yield Phase(time=time.time(), name="evaluate")
    loss, result = run.test()
    yield Metrics(time=time.time(), values=run.summary(result if math.isfinite(loss) else None) | shared)
    check_loss("test", loss, epoch)
    return result


class Run:
    """The state of one training run.

    Args:
        spec: the run.
        model: the initialised model, on the CPU.
        inputs: the run's training, validation and test batches.
        device: where the model trains.
        group: the processes that train together.
    """

    def __init__(
        self,
        spec: RunSpec,
        model: nn.Module,
        inputs: Inputs,
        device: torch.device,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.group = group
        self.stop_rule = StopRule(spec.recipe, spec.probe, inputs.train.num_samples, endless=spec.turns is not None)
        # the schedule is defined over the run that there will be
        recipe = self.recipe = spec.recipe.model_copy(update={"epochs": self.stop_rule.epochs})
        self.inputs = inputs
        self.device = device
        layout = torch.channels_last if recipe.channels_last else torch.preserve_format
        self.model_name = spec.model
        self.model = model.to(device).to(memory_format=layout)
        self.epoch_images = images_of_epoch(spec, inputs.train.num_samples)
        windows = plan_windows(self.epoch_images, recipe.batch_size, recipe.accumulation_steps)
        self.windows, self.batches = group.share(windows)
        self.engagement = Engagement(recipe, device, windows)
        optimizer = build_optimizer(self.model, spec.model, recipe)
        self.precision = Precision(recipe, device)
        self.precision.watch(optimizer)
        self.compiled = compile_model(self.model, recipe)
        self.learner = Learner(
            model=group.wrap(self.compiled, device),
            criterion=nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
            optimizer=optimizer,
            schedule=build_schedule(optimizer, recipe, len(self.windows)),
            precision=self.precision,
            clip_norm=recipe.clip_norm,
            accumulating=accumulating,
        )
        self.memory = DeviceMemory(device)
        self.meter = Meter(device, recipe.warmup_windows, self.memory)
        self.updates = 0
        self.last_loss: float | None = None

    def warm_up(self) -> None:
        """Uses everything for the first time before the clock starts; model and random generators stay as they are."""
        with self.engagement.watching(self.model):
            self._warm_up()

    def _warm_up(self) -> None:
        recipe, device, meter = self.recipe, self.device, self.meter
        sizes = {size for window in self.stop_rule.reached(self.windows) for size in window.sizes}
        self.precision.training()
        meter.warmup_seconds += rehearse_update(self.model_name, recipe, device)
        if not recipe.cuda_graph or recipe.compile != "off":  # a capture warms up by itself, once all is compiled
            # without the wrapper that exchanges gradients: the sizes of the ranks may differ in number
            seeing = self.engagement.seeing(self.learner.criterion)
            alone = replace(self.learner, model=self.compiled, criterion=seeing)
            made = warm_up(alone, self.model, recipe, sizes, device, self.memory)
            meter.compile_seconds += made.compile_seconds
            meter.warmup_seconds += made.seconds
            meter.hidden_bytes = made.hidden_bytes
        if recipe.cuda_graph:
            self._capture_graphs(sizes)

    def _capture_graphs(self, sizes: set[int]) -> None:
        began = time.perf_counter()
        learner, recorder = self.learner, cuda_graphs.CudaRecorder(self.device)
        with preserving_state(self.model, self.device):
            captured = cuda_graphs.capture(
                learner.model, learner.criterion, self.precision, self.recipe, sizes, self.device, recorder
            )
        self.learner = replace(learner, captured=captured)
        self.engagement.captured = captured
        self.meter.hidden_bytes = captured.hidden_bytes
        self.meter.compile_seconds += captured.capture_seconds
        self.meter.warmup_seconds += time.perf_counter() - began - captured.capture_seconds

    def train_epoch(self, epoch: int) -> Generator[Record, None, dict[str, float]]:
        """Trains one epoch; the generator's return value is its metrics. One host sync, at the end."""
        updates = EpochUpdates(self, epoch)
        self.meter.start_training()
        began = shown = time.perf_counter()
        images = 0
        for made, size in enumerate(updates, start=1):
            images += size
            if self.stop_rule.stops_after_window(size, self.meter):
                break
            now = time.perf_counter()
            if now - shown > PROGRESS_SECONDS:
                shown = now
                yield self._progress(epoch, made, images / (now - began))
        seconds = self.meter.end_training()
        self.last_loss = updates.mean_loss()
        return {
            TRAIN_LOSS: self.last_loss,
            EPOCH_SECONDS: seconds,
            EPOCH_RATE: images / seconds,
        }

    def _progress(self, epoch: int, update: int, rate: float) -> Progress:
        return Progress(
            time=time.time(),
            epoch=epoch,
            epochs=self.recipe.epochs,
            update=update,
            updates=len(self.windows),
            images_per_second=rate,
            loss=self.last_loss,
        )

    def validate(self, data: EvalInput) -> dict[str, float]:
        """Evaluates on the validation split; returns its metrics by name."""
        loss, labels, logits = self.meter.timed_evaluation(lambda: self._evaluate(data))
        scores = epoch_scores(labels, logits.argmax(axis=1))
        return {VAL_LOSS: loss, **{f"{VAL_SCORE}{name}": value for name, value in scores.items()}}

    def test(self) -> tuple[float, TrainResult]:
        """Reads the test set: once, at the end; its mean loss and the outputs."""
        loss, labels, logits = self.meter.timed_evaluation(lambda: self._evaluate(self.inputs.test))
        return loss, TrainResult(labels, logits)

    def _evaluate(self, data: EvalInput) -> tuple[float, npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Evaluates in fp32, in every cell alike; results stay on the device until the end.

        Returns:
            (mean loss, labels (n,), logits (n, classes)).
        """
        self.precision.evaluating()
        self.model.eval()
        outputs: list[tuple[Tensor, Tensor]] = []
        with torch.inference_mode(), no_algorithm_search():
            for images, labels in data:
                # cloned: an input pipeline may reuse its label buffer
                outputs.append((labels.clone(), self.model(images).float()))
            labels, logits = (torch.cat(column) for column in zip(*outputs, strict=True))
            loss = nn.functional.cross_entropy(logits, labels)
        return float(loss), labels.cpu().numpy(), logits.cpu().numpy()

    def summary(self, result: TrainResult | None) -> dict[str, float]:
        """All summary metrics but those of the whole process (set-up and total time)."""
        scores = {} if result is None else final_scores(result.labels, result.logits)
        tested = {f"{TEST_SCORE}{name}": value for name, value in scores.items()}
        return {**tested, **self.meter.summary(), **self.precision.metrics(), UPDATES: float(self.updates)}

    def engaged(self) -> Tags:
        """What has been seen until now of the techniques that act."""
        return Tags(time=time.time(), values=self.engagement.tags(self.model, self.learner.optimizer))

    def state_dict(self, history: list[Metrics]) -> dict[str, Any]:
        """Everything that the remaining epochs depend on; the data order follows from seed and epoch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "schedule": self.learner.schedule.state_dict(),
            "precision": self.precision.state_dict(),
            "meter": self.meter.state_dict(),
            "updates": self.updates,
            "history": [record.model_dump_json() for record in history],
        }

    def restore(self, state: dict[str, Any]) -> tuple[int, list[Metrics]]:
        """Continues from a checkpoint; returns the epoch that it was made after and the records until then."""
        epoch = int(state["epoch"])
        if not 0 <= epoch < self.recipe.epochs:
            raise ValueError(f"epoch {epoch} of {self.recipe.epochs}")
        history = [Metrics.model_validate_json(text) for text in state["history"]]
        self.model.load_state_dict(state["model"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        self.learner.schedule.load_state_dict(state["schedule"])
        self.precision.load_state_dict(state["precision"])
        self.meter.load_state_dict(state["meter"])
        self.updates = int(state["updates"])
        return epoch, history


class EpochUpdates:
    """An epoch's training, update by update: each item that is taken is one, and the images of its window.

    Between two items the run stands still. Nothing waits for the device until `mean_loss`.

    Args:
        run: whose epoch it is.
        epoch: its number, from 1.
    """

    def __init__(self, run: Run, epoch: int) -> None:
        self._run = run
        self._epoch = epoch
        self._losses = WindowLosses(len(run.windows), run.device)
        self._made = 0
        run.precision.training()
        run.learner.model.train()

    def __iter__(self) -> Iterator[int]:
        run = self._run
        batches = run.engagement.first_seen(run.batches(run.inputs.train, self._epoch))
        for window in run.windows:
            loss = optimizer_step(run.learner, window, batches, run.inputs.train, run.meter.clock.end_phase)
            self._losses.add(loss)
            run.meter.end_window(window.total)
            self._made += 1
            yield window.total

    def mean_loss(self) -> float:
        """The mean loss of the updates that were made; counts them as the run's.

        Raises:
            DivergedError: a loss was infinite or no number.
        """
        run = self._run
        updated = run.precision.outcomes()
        run.updates += sum(updated)
        losses = run.group.mean(self._losses.all()).cpu()
        return mean_loss(losses, run.windows[: self._made], updated, self._epoch)
