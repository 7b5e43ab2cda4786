"""Whether a model can be trained at a recipe's image size and micro-batches, found out without training it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.design.spec import RunSpec
from pipeline.errors import InputError, first_line
from pipeline.training import models
from pipeline.training.data_parallel import split_batch

SEVERAL = 2  # images that stand for any number of them but one
_MEMORY = ("out of memory", "can't allocate memory")


def smallest_micro_batch(samples: int, batch_size: int, nproc: int) -> int:
    """Counts the images of the smallest micro-batch that a process passes through the model in an epoch.

    Args:
        samples: training images of an epoch.
        batch_size: images of a micro-batch, of all processes together.
        nproc: processes that share it.
    """
    first = min(batch_size, samples)
    # a process without a share goes through the first two images (`data_parallel.rank_windows`)
    batches = (first, samples % batch_size or first)
    return min(share or min(batch, 2) for batch in batches for share in split_batch(batch, nproc))


class Trainable:
    """Refuses runs whose model cannot go forward and backward; each model, size and number of images is tried once."""

    def __init__(self) -> None:
        self._tried: dict[tuple[object, ...], str | None] = {}
        self._shapes: dict[tuple[object, ...], nn.Module] = {}

    def know(self, spec: RunSpec, model: nn.Module) -> None:
        """Takes a run's model, which was built anyway; its weights are given up."""
        if not spec.recipe.grad_checkpoint:
            self._shapes.setdefault(_shape(spec), model.to("meta"))

    def check(self, spec: RunSpec, samples: int, classes: int) -> None:
        """Tries a run's model in training mode on the micro-batches that the run will have.

        Args:
            spec: the run.
            samples: training images of an epoch.
            classes: number of classes.

        Raises:
            InputError: it cannot be trained at the image size, or not on its smallest micro-batch.
        """
        recipe = spec.recipe
        problem = self._problem(spec, SEVERAL, classes)
        if problem is not None:
            raise InputError(
                f"recipe.image_size: {recipe.image_size} is not allowed for model {spec.model}; allowed: a size at "
                f"which it can be trained ({problem})"
            )
        smallest = smallest_micro_batch(samples, recipe.batch_size, spec.nproc)
        problem = self._problem(spec, smallest, classes) if smallest < SEVERAL else None
        if problem is not None:
            rest = recipe.batch_size > 1
            where = f"the last of an epoch of {samples} images has" if rest else "a micro-batch has"
            other = f", or max_train_samples={samples - 1}" if rest and samples > SEVERAL else ""
            raise InputError(
                f"recipe.batch_size: {recipe.batch_size} is not allowed for model {spec.model} on {spec.dataset}: "
                f"{where} one image, which this model cannot be trained on ({problem}); "
                f"allowed: another batch_size{other}"
            )

    def _problem(self, spec: RunSpec, images: int, classes: int) -> str | None:
        """Why the model cannot be trained on so many images, in one line; None where it can, or nobody can tell."""
        key = (*_shape(spec), images)  # whatever the number of classes: it is the size of the last layer
        if key not in self._tried:
            self._tried[key] = self._try(spec, images, classes)
        return self._tried[key]

    def _try(self, spec: RunSpec, images: int, classes: int) -> str | None:
        plain = spec.recipe.model_copy(update={"pretrained": False, "weights": None, "grad_checkpoint": False})
        problem = None
        for device in ("meta", "cpu"):  # some models compute with values, which meta tensors lack: only real ones tell
            try:
                model = self._shapes.get(_shape(spec)) if device == "meta" else None
                if model is None:
                    with torch.device(device):
                        model = models.build_model(spec.model, plain, classes)
                inputs = torch.zeros(images, 3, plain.image_size, plain.image_size, device=device)
                outputs = model.train()(inputs)
                loss: Any = nn.functional.cross_entropy(outputs, torch.zeros(images, dtype=torch.long, device=device))
                loss.backward()
            except MemoryError:
                return None
            except Exception as error:  # whatever a model raises, the run would raise it too
                problem = first_line(error, 160)
            else:
                return None
        return None if problem is None or any(word in problem for word in _MEMORY) else problem


def _shape(spec: RunSpec) -> tuple[object, ...]:
    return spec.model, spec.recipe.image_size, spec.recipe.patch_size
