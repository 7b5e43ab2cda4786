"""Finds what is wrong with runs before the first of them: data, models, weights, requirements."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.design import requirements
from pipeline.design.records import Job
from pipeline.design.turns import images_of_epoch
from pipeline.errors import OutsideError
from pipeline.training import models
from pipeline.training.data import inputs, store
from pipeline.training.trainable import Trainable


def preflight(jobs: list[Job], emit: Callable[[str], None]) -> None:
    """Checks, before any run, what only the heavy libraries can tell: device, its abilities, data, models, weights.

    Prepares each data set (first use), builds each distinct model once, and tries whether it can be trained.

    Args:
        jobs: all runs of the plan.
        emit: called with a line of progress.

    Raises:
        AblateError: the first problem, in one line.
    """
    if any(job.spec.device == "cuda" for job in jobs) and not torch.cuda.is_available():
        raise OutsideError("device: torch finds no CUDA device; force the CPU with --device cpu")
    machine = _machine()
    for job in jobs:
        requirements.check_machine(job.spec.recipe, job.spec.device, machine)
    built: set[tuple[Any, ...]] = set()
    samples: dict[tuple[Any, ...], int] = {}
    trainable = Trainable()
    sources: dict[tuple[Any, ...], Any] = {}
    listings: dict[tuple[str, int], Any] = {}
    for job in jobs:
        spec, recipe = job.spec, job.spec.recipe
        part = (
            spec.dataset,
            spec.seed,
            recipe.input_pipeline,
            recipe.validation_fraction,
            recipe.max_train_samples,
            recipe.max_test_samples,
        )
        prepared: tuple[Any, ...] = (spec.dataset, recipe.image_size, recipe.resize, recipe.skip_unreadable)
        if recipe.max_train_samples is not None or recipe.max_test_samples is not None:
            prepared += part  # of a folder, only the images of this part are decoded
        if prepared not in sources:
            folder = spec.dataset, recipe.skip_unreadable
            if folder not in listings:
                emit(f"preparing {spec.dataset}")
            sources[prepared] = store.prepare_run(
                spec,
                Path(job.data_dir),
                listing=listings.get(folder),
                check=True,
                report=lambda message, done, total: emit(f"{message} {done}/{total}"),
            )
            listings[folder] = sources[prepared].listing
            inputs.check_classes(sources[prepared])
        source = sources[prepared]
        model = (
            spec.model,
            recipe.image_size,
            recipe.patch_size,
            recipe.pretrained,
            recipe.weights,
            recipe.grad_checkpoint,
        )
        if part not in samples:
            data = inputs.build_inputs(spec, source, torch.device("cpu"))
            samples[part] = data.train.num_samples
            data.close()
        if model not in built:
            emit(f"checking {spec.model}")
            trainable.know(spec, models.build_model(spec.model, recipe, len(source.class_names)))
            built.add(model)
        images = images_of_epoch(spec, samples[part])
        trainable.check(spec, images, len(source.class_names))


def _machine() -> requirements.Machine:
    """Abilities of this host's weakest visible CUDA device, and of its compilers."""
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    capability = min((torch.cuda.get_device_capability(index) for index in devices), default=None)
    return requirements.Machine(capability, requirements.find_compiler(), find_spec("triton") is not None)
