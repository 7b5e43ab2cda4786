"""What is compiled or recorded before training, so that none of its time is in a training figure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from pipeline.precision import Precision
from pipeline.spec import Recipe


def compiled(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Wraps the model as the recipe says; parameters stay shared with the plain model."""
    if recipe.compile == "off":
        return model
    mode = None if recipe.compile == "default" else recipe.compile
    return cast(nn.Module, torch.compile(model, mode=mode, dynamic=False))


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts buffers (BatchNorm's statistics) and random generators back as they were before the block.

    Buffers are restored in place: recorded graphs know them by their address. Parameters are the block's affair.
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
    model: nn.Module, plain: nn.Module, recipe: Recipe, precision: Precision, sizes: Iterable[int], device: torch.device
) -> float:
    """Compiles: runs forward and backward once per micro-batch size of the plan, leaving no trace in the model.

    Returns:
        Seconds; 0.0 when nothing is compiled.
    """
    if recipe.compile == "off":
        return 0.0
    began = time.perf_counter()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    with untouched(plain, device):
        for size in sorted(set(sizes), reverse=True):
            images = torch.zeros(size, 3, recipe.image_size, recipe.image_size, device=device).to(memory_format=layout)
            # CUDA graphs of `reduce-overhead` are recorded from the second call on
            for _ in range(3):
                with precision.autocast():
                    output = model(images)
                output.float().sum().backward()
                plain.zero_grad(set_to_none=True)
    return time.perf_counter() - began
