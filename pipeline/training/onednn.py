"""A way around a fault of oneDNN, the library of convolutions on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.design.spec import RunSpec


def avoid_strided_pixels(model: nn.Module, spec: RunSpec) -> None:
    """Takes the stride from convolutions over a single pixel, where bfloat16 runs on a CPU: it steps over nothing.

    The bfloat16 gradient of such a convolution's weights reads memory that nothing has written: NaN, or whatever a
    freed tensor left there (torch 2.11 and 2.15, CPUs with AVX-512). Small networks have one at their end: the
    images of 16 px of `quickstart` are one pixel there. Without the stride, outputs and gradients are the same.

    Args:
        model: on the CPU; not yet wrapped.
        spec: the run.
    """
    if spec.device != "cpu" or spec.recipe.precision != "bf16":
        return
    strided = [module for module in model.modules() if isinstance(module, nn.Conv2d) and max(module.stride) > 1]
    hooks = [module.register_forward_pre_hook(_unstride) for module in strided]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, spec.recipe.image_size, spec.recipe.image_size))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _unstride(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(module, nn.Conv2d)
    if inputs[0].shape[-2:] == (1, 1) and _covers_once(module):
        module.stride = (1, 1)


def _covers_once(module: nn.Conv2d) -> bool:
    """Whether one pixel gives one pixel even without a stride: kernel and padding leave it a single place."""
    if isinstance(module.padding, str):
        return module.padding == "same"
    spans = (d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True))
    return all(2 * pad == span for pad, span in zip(module.padding, spans, strict=True))
