"""The work that every contender does: model, images, their order, normalisation. In a child process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.bench.cases import Case
from pipeline.bench.loops.interleave import give_way, now
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import environment, models, onednn
from pipeline.training.data.split import epoch_order
from pipeline.training.data.transforms import moments
from pipeline.training.precision import set_matmul_precision

DATASET = "cifar10"  # for its moments; the images are random
LEARNING_RATE = 1e-3
MOMENTUM = 0.9


@dataclass(frozen=True)
class Work:
    """One case, ready to be done.

    Attributes:
        case: the case.
        spec: the same as ablate's run.
        device: where it is done.
        raw: uint8 (n, S, S, 3) images and int64 (n,) labels, as a store has them.
        images: the same images, uint8 (n, 3, S, S), on the device.
        labels: int64 (n,), on the device.
        initial: the initialised model, on the CPU.
    """

    case: Case
    spec: RunSpec
    device: torch.device
    raw: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
    images: Tensor
    labels: Tensor
    initial: nn.Module
    scale: Tensor
    shift: Tensor

    def model(self) -> nn.Module:
        """A copy of the initialised model, on the device."""
        return copy.deepcopy(self.initial).to(self.device)

    def order(self, epoch: int) -> Tensor:
        """The images' order in an epoch: int64 (n,), on the CPU."""
        return epoch_order(len(self.labels), self.case.seed, epoch)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> float32, normalised."""
        return torch.addcmul(self.shift, images.float(), self.scale)

    def autocast(self) -> torch.autocast:
        """The forward pass's context."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.case.precision == "bf16")

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        """SGD with Nesterov momentum: the optimizer with the least work, so that it hides the least overhead."""
        return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True)

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, action: Callable[[], None]) -> float:
        """Seconds that `action` takes without the turns of others, to the end of what it has put on the device."""
        self.synchronize()
        began = now()
        action()
        self.synchronize()
        return now() - began


def build_workload(case: Case) -> Work:
    """Makes the work of a case, and sets threads and arithmetic as a run of ablate does."""
    spec = run_spec(case)
    environment.prepare_process(spec)
    device = environment.open_device(spec)
    set_matmul_precision(tf32=False)
    random = np.random.default_rng(case.seed)
    side = case.image_size
    pixels = random.integers(0, 256, (case.images, side, side, 3), dtype=np.uint8)
    labels = random.integers(0, case.classes, case.images, dtype=np.int64)
    mean, std = moments(spec.recipe, DATASET)
    environment.seed_all(case.seed)
    initial = models.build_model(case.model, spec.recipe, case.classes)
    onednn.avoid_strided_pixels(initial, spec)
    return Work(
        case,
        spec,
        device,
        (pixels, labels),
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device),
        torch.from_numpy(labels).to(device),
        initial,
        scale=torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1),
        shift=torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1),
    )


def run_spec(case: Case) -> RunSpec:
    """The same work as a run of ablate."""
    recipe = Recipe(
        epochs=100_000,
        batch_size=case.batch,
        precision=case.precision,
        num_threads=case.threads,
        input_pipeline="device" if case.device == "cuda" else "gather",
        image_size=case.image_size,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        validation_fraction=0.0,
        warmup_windows=0,
    )
    return RunSpec(model=case.model, dataset=DATASET, seed=case.seed, device=case.device, recipe=recipe)


class EpochOrder(Sampler[Tensor]):
    """The work's order, batch by batch, as a DataLoader's batch sampler.

    The whole order is copied to the device once an epoch and a batch is a slice of it, so that no batch has the host
    wait for the device or copy to it: an index made from a list would do both.

    Attributes:
        epoch: whose order it gives; set before each epoch. There is no `set_epoch` on purpose: Accelerate and Lightning
            call it with counts of their own.
        batch_size, drop_last: what the libraries ask a batch sampler for.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self.epoch = 0
        self.batch_size = work.case.batch
        self.drop_last = False

    def __iter__(self) -> Iterator[Tensor]:
        order = self._work.order(self.epoch).to(self._work.device)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-len(self._work.labels) // self.batch_size)


class InMemory(Dataset[tuple[Tensor, Tensor]]):
    """The images for a DataLoader: whole batches at once (`__getitems__`), so no sample is handled alone."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __len__(self) -> int:
        return len(self._work.labels)

    def __getitems__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A batch: uint8 (B, 3, S, S) and int64 (B,), of the images at `rows`, int64 (B,) on the device."""
        give_way()
        return self._work.images[rows], self._work.labels[rows]


def as_it_is(batch: Any) -> Any:
    """The collate function of batches that are whole already."""
    return batch


def loader(work: Work) -> tuple[DataLoader[tuple[Tensor, Tensor]], EpochOrder]:
    """The fastest DataLoader over images in memory, and the sampler that gives it the work's order."""
    order = EpochOrder(work)
    # PyTorch's own types know index lists only; a batch sampler's item goes to `__getitems__` as it is
    return DataLoader(InMemory(work), batch_sampler=cast(Any, order), collate_fn=as_it_is), order
