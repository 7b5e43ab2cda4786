"""The contenders from other libraries: Accelerate, Lightning's Trainer, Lightning Fabric. In a child process.

Each is used as its documentation says, in its fastest documented configuration: no logger, no checkpoints, no progress
bar, and for the Trainer `barebones`, the mode meant for measuring its own overhead.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pipeline.bench.loops.contenders import Contender
from pipeline.bench.loops.interleave import now
from pipeline.bench.loops.workload import Work, loader

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Accelerate:
    """Hugging Face Accelerate: `prepare`, and `accelerator.backward` in a plain loop."""

    def __init__(self, work: Work) -> None:
        from accelerate import Accelerator

        self._work = work
        self.model: nn.Module = work.model()
        self._accelerator = Accelerator(
            cpu=work.device.type == "cpu", mixed_precision="no" if work.case.precision == "fp32" else "bf16"
        )
        batches, self._sampler = loader(work)
        self._prepared, self._optimizer, self._loader = self._accelerator.prepare(
            self.model, work.optimizer(self.model), batches
        )

    def epoch(self, number: int) -> float:
        """See `Contender.epoch`."""
        self._sampler.epoch = number
        return self._work.timed(self._epoch)

    def _epoch(self) -> None:
        work, model, optimizer = self._work, self._prepared, self._optimizer
        model.train()
        for images, labels in self._loader:
            loss = nn.functional.cross_entropy(model(work.normalised(images)), labels)
            self._accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    def close(self) -> None:
        """Nothing is held."""


class Fabric:
    """Lightning Fabric: `setup`, and `fabric.backward` in a plain loop."""

    def __init__(self, work: Work) -> None:
        from lightning.fabric import Fabric as LightningFabric

        self._work = work
        self.model: nn.Module = work.model()
        self._fabric = LightningFabric(
            accelerator=work.device.type, devices=1, precision=_PRECISION[work.case.precision]
        )
        batches, self._sampler = loader(work)
        self._prepared, self._optimizer = self._fabric.setup(self.model, work.optimizer(self.model))
        self._loader = self._fabric.setup_dataloaders(batches)

    def epoch(self, number: int) -> float:
        """See `Contender.epoch`."""
        self._sampler.epoch = number
        return self._work.timed(self._epoch)

    def _epoch(self) -> None:
        work, model, optimizer = self._work, self._prepared, self._optimizer
        model.train()
        for images, labels in self._loader:
            loss = nn.functional.cross_entropy(model(work.normalised(images)), labels)
            self._fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _memory_kept() -> Iterator[None]:
    """PyTorch's memory cache on a GPU is not emptied in this block.

    An epoch of the Trainer is a `fit` here, and each `fit` empties the cache three times around it. The cache is that
    of all contenders: the Trainer's epoch would begin with allocations that no second epoch of one `fit` makes, and so
    would the epoch of whoever comes next.
    """
    plain: Any = torch.cuda.empty_cache
    torch.cuda.empty_cache = lambda: None
    try:
        yield
    finally:
        torch.cuda.empty_cache = plain


class Lightning:
    """Lightning's Trainer. Each epoch is one `fit`, timed by its own epoch hooks: set-up and teardown are left out."""

    def __init__(self, work: Work) -> None:
        from lightning import pytorch

        self._work = work
        self.model: nn.Module = work.model()
        self._loader, self._sampler = loader(work)
        model, optimizer = self.model, work.optimizer(self.model)

        base: Any = pytorch.LightningModule

        class Module(base):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.model = model
                self.seconds = 0.0

            def training_step(self, batch: Any, _index: int) -> Any:
                images, labels = batch
                return nn.functional.cross_entropy(self.model(work.normalised(images)), labels)

            def configure_optimizers(self) -> Any:
                return optimizer  # the same object in every fit keeps the momentum

            def on_train_epoch_start(self) -> None:
                work.synchronize()
                self._began = now()

            def on_train_epoch_end(self) -> None:
                work.synchronize()
                self.seconds = now() - self._began

        self._module = Module()

    def epoch(self, number: int) -> float:
        """See `Contender.epoch`."""
        from lightning.pytorch import Trainer

        self._sampler.epoch = number
        trainer = Trainer(
            accelerator=self._work.device.type,
            devices=1,
            precision=_PRECISION[self._work.case.precision],
            max_epochs=1,
            barebones=True,
        )
        with _memory_kept():
            trainer.fit(self._module, self._loader)
        self.model.to(self._work.device)  # the Trainer moves the model to the host at its end
        return float(self._module.seconds)

    def close(self) -> None:
        """Nothing is held."""


PEERS: dict[str, Callable[[Work], Contender]] = {"accelerate": Accelerate, "fabric": Fabric, "lightning": Lightning}


def preload() -> None:
    """Imports the libraries that are installed, in the process that the blocks are forked from."""
    for module in ("accelerate", "lightning.fabric", "lightning.pytorch"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def silence() -> None:
    """Advice on loggers, tips and worker counts has no place in a benchmark's output."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_utilities", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning.*")
    warnings.filterwarnings("ignore", message=r".*(num_workers|barebones|lr_scheduler\.step).*")
