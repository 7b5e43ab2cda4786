"""Gradient checkpointing that changes memory and time, and nothing else.

timm's models recompute each block in the backward pass. A BatchNorm layer sees the same batch twice then and
would update its running statistics twice: with momentum 0.1 an effective 0.19, other evaluation results, and no
message. Here the second pass works on copies of the statistics.
"""

from __future__ import annotations

from typing import Any

from timm.layers import config
from torch import Tensor, nn

from pipeline.errors import not_allowed

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def switch_on(model: nn.Module, name: str) -> None:
    """Turns timm's checkpointing on and guards the BatchNorm statistics.

    Call it before the model is wrapped, and after any layer of it is replaced: the guards are hooks on its modules.

    Args:
        model: a timm model.
        name: its name, for the message.

    Raises:
        InputError: the architecture has no gradient checkpointing.
    """
    # the re-entrant kind would run the first pass without gradients, and not at all for a frozen input
    config.set_reentrant_ckpt(False)
    try:
        switch: Any = model.set_grad_checkpointing
        switch(True)
    except (AttributeError, AssertionError, TypeError, NotImplementedError):
        pass  # timm's models without it lack the method, or assert in it
    if not any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
        raise not_allowed(
            f"recipe.grad_checkpoint of {name}", True, "false (timm has no gradient checkpointing for this model)"
        )
    _Guard(model)


class _Guard:
    """Hooks: while the model's own forward runs, layers update their statistics; at any other time they do not."""

    def __init__(self, model: nn.Module) -> None:
        self._first_pass = False
        model.register_forward_pre_hook(self._begin)
        # also after an error: a model that is out of memory in its forward pass is not in it any more
        model.register_forward_hook(self._end, always_call=True)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                kept: dict[str, Tensor] = {}
                module.register_forward_pre_hook(lambda layer, _inputs, kept=kept: self._set_aside(layer, kept))
                module.register_forward_hook(lambda layer, _i, _o, kept=kept: _put_back(layer, kept), always_call=True)

    def _begin(self, *_arguments: Any) -> None:
        self._first_pass = True

    def _end(self, *_arguments: Any) -> None:
        self._first_pass = False

    def _set_aside(self, layer: nn.Module, kept: dict[str, Tensor]) -> None:
        if self._first_pass or not layer.training:
            return
        # copies rather than None: checkpointing checks that both passes save tensors of equal number and shape
        for statistic in _STATISTICS:
            tensor = layer._buffers.get(statistic)
            if tensor is not None:
                kept[statistic] = tensor
                layer._buffers[statistic] = tensor.clone()


def _put_back(layer: nn.Module, kept: dict[str, Tensor]) -> None:
    layer._buffers.update(kept)
    kept.clear()
