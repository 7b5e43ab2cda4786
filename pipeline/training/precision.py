"""Numeric precision of training: autocast, gradient scaler, and the exact order of one optimizer update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.design.names import FINAL_SCALE, SKIPPED_STEPS
from pipeline.design.spec import CUDA_GRAPH_MODES, Recipe

_PLAIN = nullcontext()  # a disabled autocast costs as much as one that is enabled
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def set_matmul_precision(*, tf32: bool) -> None:
    """Turns TensorFloat-32 on or off for matrix products and convolutions alike.

    PyTorch's own default allows it in convolutions only, which would make `fp32` cells half TF32. These two setters
    write the settings per operator as well; those alone leave the older ones behind, and whoever reads these then
    gets an error (TorchInductor does, and `cudnn.flags()`). `set_float32_matmul_precision` would go for the CPU too.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    cast(Any, torch.backends.cudnn).allow_tf32 = tf32


class Precision:
    """Autocast and scaling of one run, and its optimizer updates.

    fp16 trains with a gradient scaler on every device; bf16 has fp32's range and needs none. `tf32` is a mode
    of the arithmetic units, so evaluation leaves it (`evaluating`), in all cells alike.

    Args:
        recipe: recipe of the run; precision, scaler, compiler, accumulation and graphs are read.
        device: where the model trains.

    Attributes:
        scaler: the gradient scaler; None but for fp16.
        skipped: updates that the scaler has skipped, as far as they are settled (see `update`).
        keeps_gradients: whether gradients have memory of their own, which is zeroed after an update. Elsewhere they
            are dropped, which saves memory and time.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._device = device
        self._dtype = _AUTOCAST.get(recipe.precision)
        self._tf32 = recipe.precision == "tf32"
        # what a weight has been cast to outside of a capture would not be cast again by a replay
        self._cache_casts = not recipe.cuda_graph
        self.scaler = (
            torch.amp.GradScaler(
                device.type,
                init_scale=recipe.scaler_init_scale,
                growth_interval=recipe.scaler_growth_interval,
            )
            if recipe.precision == "fp16"
            else None
        )
        # Captured graphs add to gradients at fixed addresses. TorchInductor's own graphs write a gradient to the same
        # place in every replay: one that autograd took over as it is would be overwritten by the next micro-batch.
        self.keeps_gradients = recipe.cuda_graph or (
            recipe.compile in CUDA_GRAPH_MODES and recipe.accumulation_steps > 1
        )
        self.skipped = 0
        self._stepped = False
        self._verdict = _Verdict(device)
        self._outcomes: list[bool] = []
        self._unsettled: Callable[[], object] | None = None

    def training(self) -> None:
        """Sets the arithmetic of training; called at the start of every training phase."""
        set_matmul_precision(tf32=self._tf32)

    def evaluating(self) -> None:
        """Sets the arithmetic of evaluation: fp32 without TF32."""
        set_matmul_precision(tf32=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's context; the backward pass runs outside it, in the forward's dtypes.

        The same for eager, compiled and captured calls: a compiled model is compiled anew where it differs.
        """
        if self._dtype is None:
            return _PLAIN
        return torch.autocast(self._device.type, dtype=self._dtype, cache_enabled=self._cache_casts)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Notices real updates without waiting for the device; without a scaler every update is one."""
        if self.scaler is not None:
            optimizer.register_step_post_hook(self._after_step)

    def backward(self, loss: Tensor) -> None:
        """Adds the (scaled) gradients of `loss` to the parameters'."""
        scaled: Any = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        clip_norm: float | None,
        then: Callable[[], object],
    ) -> None:
        """Unscale -> clip -> step -> update -> zero_grad, and `then` if the scaler has not skipped the step.

        A fused optimizer skips inside of its kernel, and the host learns of it when the device gets there. Asking
        at once would drain the device in every update, which PyTorch's own loop does not do. So the update stays
        unsettled until the next one is due, with a window's passes queued in between; `then` is called at the
        latest before that one, in time for the rate that it uses.

        Args:
            optimizer: the optimizer, watched (see `watch`).
            model: the model whose gradients are clipped.
            clip_norm: largest norm of all gradients together; None for no clipping.
            then: called after a real update (the schedule's step).
        """
        self.settle()
        scaler = self.scaler
        in_kernel = scaler is not None and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        if scaler is not None and (not in_kernel or clip_norm is not None):
            scaler.unscale_(optimizer)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        self._stepped = False
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        if in_kernel:
            self._unsettled = then
        else:  # the scaler has asked the device itself, and has not called step() where gradients are infinite
            self._settle(scaler is None or self._stepped, then)

    def settle(self) -> None:
        """Takes note of the last update if that is still to be done; waits for the device to have made it."""
        if self._unsettled is not None:
            then, self._unsettled = self._unsettled, None
            self._settle(self._verdict.accepted(), then)

    def outcomes(self) -> list[bool]:
        """Whether each update since the last call was made, in order; settles the last one."""
        self.settle()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _settle(self, updated: bool, then: Callable[[], object]) -> None:
        self._outcomes.append(updated)
        self.skipped += not updated
        if updated:
            then()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._stepped = True
        found_inf = getattr(optimizer, "found_inf", None)  # the scaler lends it to optimizers that skip by themselves
        if found_inf is not None:
            self._verdict.take(found_inf)

    def metrics(self) -> dict[str, float]:
        """Scaler figures; empty without a scaler (absent, not zero)."""
        self.settle()
        if self.scaler is None:
            return {}
        return {SKIPPED_STEPS: float(self.skipped), FINAL_SCALE: float(self.scaler.get_scale())}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        self.settle()
        return {"skipped": self.skipped, "scaler": self.scaler.state_dict() if self.scaler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint's state."""
        self.skipped = int(state["skipped"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


class _Verdict:
    """Whether infinite gradients were found, on its way from the device to the host.

    Args:
        device: where the gradients are.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._host: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def take(self, found_inf: Tensor) -> None:
        """Sends it off, behind what is queued on the device; waits for nothing.

        Args:
            found_inf: above 0 for a skipped update; one element.
        """
        if not self._cuda:
            self._host = found_inf
            return
        if self._host is None or self._arrived is None:
            self._host = torch.empty((), pin_memory=True)
            self._arrived = cast(Any, torch.cuda.Event)()
        self._host.copy_(found_inf.detach().reshape(()), non_blocking=True)
        cast(Any, self._arrived).record(torch.cuda.current_stream(self._device))

    def accepted(self) -> bool:
        """Whether the update was made; waits until that has arrived."""
        if self._arrived is not None:
            cast(Any, self._arrived).synchronize()
        assert self._host is not None
        return not self._host.detach().numpy().any()
