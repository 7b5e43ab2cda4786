"""Numeric precision of training: autocast, gradient scaler, and the exact order of one optimizer update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.spec import Recipe

_PLAIN = nullcontext()  # a disabled autocast costs as much as one that is enabled
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def set_matmul_precision(*, tf32: bool) -> None:
    """Turns TensorFloat-32 on or off for matrix products and convolutions alike.

    PyTorch's own default allows it in convolutions only, which would make `fp32` cells half TF32.
    """
    value = "tf32" if tf32 else "ieee"
    cudnn: Any = torch.backends.cudnn
    torch.backends.cuda.matmul.fp32_precision = value
    cudnn.conv.fp32_precision = value
    cudnn.rnn.fp32_precision = value


class Precision:
    """Autocast and scaling of one run.

    fp16 trains with a gradient scaler on every device; bf16 has fp32's range and needs none. `tf32` is a mode
    of the arithmetic units, so evaluation leaves it (`evaluating`), in all cells alike.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._device = device
        self._dtype = _AUTOCAST.get(recipe.precision)
        self._tf32 = recipe.precision == "tf32"
        self.scaler = (
            torch.amp.GradScaler(
                device.type,
                init_scale=recipe.scaler_init_scale,
                growth_interval=recipe.scaler_growth_interval,
            )
            if recipe.precision == "fp16"
            else None
        )
        # recorded graphs add to gradients at fixed addresses; otherwise dropping them saves memory and time
        self._drop_gradients = not recipe.cuda_graph
        self.skipped = 0
        self._stepped = False

    def training(self) -> None:
        """Sets the arithmetic of training; called at the start of every training phase."""
        set_matmul_precision(tf32=self._tf32)

    def evaluating(self) -> None:
        """Sets the arithmetic of evaluation: fp32 without TF32."""
        set_matmul_precision(tf32=False)

    def autocast(self, cache: bool = True) -> AbstractContextManager[Any]:
        """The forward pass's context; the backward pass runs outside it, in the forward's dtypes.

        Args:
            cache: whether a weight is cast once per context; the same values either way.
        """
        if self._dtype is None:
            return _PLAIN
        return torch.autocast(self._device.type, dtype=self._dtype, cache_enabled=cache)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Notices real updates without reading anything from the device; without a scaler every update is one."""
        if self.scaler is not None:
            optimizer.register_step_post_hook(lambda *_: setattr(self, "_stepped", True))

    def backward(self, loss: Tensor) -> None:
        """Adds the (scaled) gradients of `loss` to the parameters'."""
        scaled: Any = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def update(self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_norm: float | None) -> bool:
        """unscale -> clip -> step -> update -> zero_grad.

        Returns:
            Whether the parameters were updated; False when the scaler skipped an update with infinite gradients.
        """
        updated = self._scaled_step(optimizer, model, clip_norm) if self.scaler else True
        if self.scaler is None:
            _clip(model, clip_norm)
            optimizer.step()
        optimizer.zero_grad(set_to_none=self._drop_gradients)
        self.skipped += not updated
        return updated

    def _scaled_step(self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_norm: float | None) -> bool:
        scaler = self.scaler
        assert scaler is not None
        # a fused optimizer unscales and skips inside its kernel, so only the scale itself tells; others do not
        # call step() at all when gradients are infinite, and the hook tells that without a synchronisation
        in_kernel = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        if not in_kernel or clip_norm is not None:
            scaler.unscale_(optimizer)
            _clip(model, clip_norm)
        before = scaler.get_scale() if in_kernel else 0.0
        self._stepped = False
        scaler.step(optimizer)
        scaler.update()
        return scaler.get_scale() >= before if in_kernel else self._stepped

    def metrics(self) -> dict[str, float]:
        """Scaler figures; empty without a scaler (absent, not zero)."""
        if self.scaler is None:
            return {}
        return {"amp/skipped_steps": float(self.skipped), "amp/final_scale": float(self.scaler.get_scale())}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"skipped": self.skipped, "scaler": self.scaler.state_dict() if self.scaler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint's state."""
        self.skipped = int(state["skipped"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def _clip(model: nn.Module, clip_norm: float | None) -> None:
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
