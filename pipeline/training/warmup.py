"""The warm-up: what happens before training starts, so that none of its time and memory is in a training figure.

It has nothing to do with the learning rate's (`recipe.warmup`) or with the first windows that steady-state figures
leave out (`recipe.warmup_windows`).

A first use is dear, and dear in another way in every cell: cuDNN searches algorithms for each shape, layout and
precision, with workspaces many times as large as those that it then uses; libraries load their kernels and make their
handles; the allocator grows; a compiler compiles. Every cell therefore goes through blank micro-batches of each size of
its plan first, and all of it is undone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.design.spec import CUDA_GRAPH_MODES, Recipe
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import Precision
from pipeline.training.step import Learner

# TorchInductor's CUDA graphs run, are captured, and are replayed from the third call on
PASSES = 3


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up took.

    Attributes:
        compile_seconds: duration of the first pass of each micro-batch size where a compiler is at work, s; else 0.
        seconds: duration of all the rest, s.
        hidden_bytes: memory of TorchInductor's CUDA graphs that the allocator does not count once they are replayed,
            bytes.
    """

    compile_seconds: float
    seconds: float
    hidden_bytes: int


def compile_model(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Wraps the model as the recipe says; parameters stay shared with the plain model."""
    if recipe.compile == "off":
        return model
    mode = None if recipe.compile == "default" else recipe.compile
    return cast(nn.Module, torch.compile(model, mode=mode, dynamic=False))


@contextmanager
def preserving_state(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts buffers (BatchNorm's statistics) and random generators back as they were before the block.

    Buffers are restored in place: captured graphs know them by their address. Parameters are the block's affair.
    """
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    random_states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random_states["cuda"] = torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
        torch.set_rng_state(random_states["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(random_states["cuda"], device)
            torch.cuda.synchronize(device)


def warm_up(
    learner: Learner, plain: nn.Module, recipe: Recipe, sizes: Iterable[int], device: torch.device, memory: DeviceMemory
) -> WarmUp:
    """Goes forward and backward for every micro-batch size of the plan, leaving no trace in the model.

    Args:
        learner: what the run trains with; its optimizer, schedule and scaler are not used.
        plain: the model without a compiler's wrapper.
        recipe: the run's recipe; image size, memory format and compiler are read.
        sizes: micro-batch sizes of the plan.
        device: where the run trains.
        memory: the device's allocator.
    """
    began = time.perf_counter()
    compile_seconds, hidden = 0.0, 0
    ordered = sorted(set(sizes), reverse=True)
    learner.model.train()
    with preserving_state(plain, device):
        for size in ordered:
            batch = _blank(size, recipe, device)
            first = _timed_pass(learner, batch, device)
            if recipe.compile != "off":
                compile_seconds += first
            _drop_gradients(plain)
            again = PASSES - 1 if device.type == "cuda" or recipe.compile != "off" else 0
            shown_bytes = [_shown_bytes(learner, plain, batch, memory) for _ in range(again)]
            # The captured pass less the replayed one: nothing where the compiler has not used its graphs, as it may.
            # All sizes share one pool, so the largest one's memory serves all.
            if recipe.compile in CUDA_GRAPH_MODES:
                hidden = max(hidden, shown_bytes[0] - shown_bytes[-1])
        memory.release_unused()
        if device.type == "cuda":  # the allocator grows to what training needs, without the search's workspaces
            for size in ordered:
                _pass(learner, _blank(size, recipe, device))
                _drop_gradients(plain)
        if learner.precision.keeps_gradients:
            _reserve_gradients(learner, plain, _blank(ordered[-1], recipe, device))
    return WarmUp(compile_seconds, time.perf_counter() - began - compile_seconds, hidden)


def rehearse_update(model_name: str, recipe: Recipe, device: torch.device) -> float:
    """Makes one update of a model of two numbers, with an optimizer and a scaler like the run's: their kernels load.

    Args:
        model_name: name of the run's model, which decides parameter groups.
        recipe: the run's recipe.
        device: where the run trains.

    Returns:
        Its duration, s.
    """
    began = time.perf_counter()
    with preserving_state(nn.Module(), device):
        model = nn.Linear(1, 1, device=device)
        precision = Precision(recipe, device)
        optimizer = build_optimizer(model, model_name, recipe)
        precision.watch(optimizer)
        precision.backward(model(torch.zeros(1, 1, device=device)).sum())
        precision.update(optimizer, model, recipe.clip_norm, lambda: None)
        precision.settle()
    return time.perf_counter() - began


def _blank(size: int, recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """A micro-batch of nothing: images (size, 3, S, S) in the run's memory format, labels int64 (size,)."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    images = torch.zeros(size, 3, recipe.image_size, recipe.image_size, device=device).to(memory_format=layout)
    return images, torch.zeros(size, dtype=torch.int64, device=device)


def _pass(learner: Learner, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    learner.backward(learner.forward(images, labels, 0.5))  # a share, as in a window of several micro-batches


def _shown_bytes(learner: Learner, plain: nn.Module, batch: tuple[Tensor, Tensor], memory: DeviceMemory) -> int:
    """What the allocator sees a pass take at most, bytes; gradients are dropped after it."""
    before = memory.allocated()
    memory.reset_peaks()
    _pass(learner, batch)
    _drop_gradients(plain)
    return memory.peak_allocated() - before


def _timed_pass(learner: Learner, batch: tuple[Tensor, Tensor], device: torch.device) -> float:
    began = time.perf_counter()
    _pass(learner, batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _drop_gradients(model: nn.Module) -> None:
    model.zero_grad(set_to_none=True)


def _reserve_gradients(learner: Learner, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Gives each parameter that gets a gradient memory of its own for it, zeroed."""
    _pass(learner, batch)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = torch.zeros_like(parameter)
