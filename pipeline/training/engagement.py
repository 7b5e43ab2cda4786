"""Did what is on act? A run shows it of the recipe fields that techniques own, or says why they did not.

A comparison of a setting with itself is no comparison: a compiler that falls back, pages that are not pinned, windows
with fewer micro-batches than were asked for. The recipe says what was wanted; here is what was seen.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.design.names import COMPILER_CACHE, ENGAGEMENT_TAG, NOT_ENGAGED_TAG, RECOMPILED, UNMOVED
from pipeline.design.spec import Recipe
from pipeline.training.data.batch import HostBatch
from pipeline.training.step import Window

_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TF32_SIDE = 512  # of a product that TF32's units are used for


class Replaying(Protocol):
    """Captured graphs.

    Attributes:
        replays: how often they have been replayed.
    """

    replays: int


class Engagement:
    """What was seen of one run.

    Args:
        recipe: what was wanted.
        device: where it trains.
        windows: of an epoch, of all processes together.

    Attributes:
        captured: the run's graphs; None where it has none.
    """

    def __init__(self, recipe: Recipe, device: torch.device, windows: Sequence[Window]) -> None:
        self.captured: Replaying | None = None
        self._recipe = recipe
        self._device = device
        self._micro_batches = max((len(window.sizes) for window in windows), default=0)
        self._products: torch.dtype | None = None
        self._outputs: torch.dtype | None = None
        self._nhwc: bool | None = None
        self._recomputed = False
        self._rounded: bool | None = None
        self._pinned: bool | None = None
        self._resident: bool | None = None
        self._compiler = _compiler_counts()
        self._graphs_when_warm = self._compiler["graphs"]
        self._cache = ""
        self._weight: tuple[nn.Parameter, Tensor] | None = None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Sees what the warm-up does: how products come out, what is computed again, what is compiled.

        A compiler would trace hooks, so that of a compiled model only the outputs are seen (`seeing`).

        Args:
            model: the plain model.
        """
        products = [module for module in model.modules() if isinstance(module, _PRODUCTS)]
        hooked = products if self._recipe.grad_checkpoint else products[:1]
        handles = [
            module.register_forward_hook(self._note_product) for module in hooked if self._recipe.compile == "off"
        ]
        if self._recipe.precision == "tf32" and self._device.type == "cuda":
            self._rounded = _products_are_rounded(self._device)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        made = _compiler_counts() - self._compiler
        self._graphs_when_warm = self._compiler["graphs"] + made["graphs"]
        self._cache = "cold" if made["cache_misses"] else "warm" if made["cache_hits"] else ""
        # of the classifier, which is trained whatever else is frozen; on the host, where it is in no peak of memory
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
        if weights:
            self._weight = weights[-1], weights[-1].detach().to("cpu", copy=True)

    def _note_product(self, _module: nn.Module, _given: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        # a backward pass is under way: `torch.utils.checkpoint` goes by this, too
        self._recomputed |= torch._C._current_graph_task_id() != -1
        if self._products is None:
            self._products = output.dtype
            if output.ndim == 4:
                self._nhwc = output.is_contiguous(memory_format=torch.channels_last)

    def seeing(self, criterion: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """The criterion, which also sees the type of the model's outputs: outside of what a compiler traces."""

        def seen(outputs: Tensor, labels: Tensor) -> Tensor:
            self._outputs = outputs.dtype
            return criterion(outputs, labels)

        return seen

    def first_seen(self, batches: Iterator[HostBatch]) -> Iterator[HostBatch]:
        """The same batches; where the first one of the run lies has been looked at."""
        if self._resident is not None:
            return batches
        first = next(batches, None)
        if first is None:
            return batches
        self._resident = first.images.device.type == self._device.type
        self._pinned = first.images.device.type == "cpu" and first.images.is_pinned()
        return chain((first,), batches)

    def missing(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
        """Recipe fields that did not act until now: field -> why; `UNMOVED` where no weight has changed.

        Args:
            model: the plain model.
            optimizer: of the run.
        """
        recipe = self._recipe
        kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4]
        no_copy = "batches need no copy: they lie where the model trains"
        wanted = _TYPES.get(recipe.precision)
        what, seen = ("outputs", self._outputs) if self._products is None else ("products", self._products)
        checks: tuple[tuple[str, bool, str], ...] = (
            (
                "accumulation_steps",
                self._micro_batches < recipe.accumulation_steps,
                f"an epoch has {self._micro_batches} micro-batches, fewer than {recipe.accumulation_steps}",
            ),
            ("precision", None not in (wanted, seen) and seen != wanted, f"{what} came out as {_name(seen)}"),
            ("precision", self._rounded is False, "products came out in full precision"),
            ("pin_memory", recipe.pin_memory and bool(self._resident), no_copy),
            ("pin_memory", recipe.pin_memory and self._pinned is False, "batches lie in pageable memory"),
            ("non_blocking", recipe.non_blocking and bool(self._resident), no_copy),
            (
                "input_pipeline",
                recipe.input_pipeline == "device" and self._resident is False,
                "batches came from the host",
            ),
            ("channels_last", recipe.channels_last and not kernels, "the model has no convolution"),
            (
                "channels_last",
                recipe.channels_last and not (any(map(_is_nhwc, kernels)) if self._nhwc is None else self._nhwc),
                "convolutions are NCHW" if self._nhwc is False else "no weight has this layout",
            ),
            (
                "compile",
                recipe.compile != "off" and self._graphs_when_warm == self._compiler["graphs"],
                "nothing was compiled",
            ),
            ("cuda_graph", recipe.cuda_graph and self._replays() == 0, "no graph was replayed"),
            (
                "fused_optimizer",
                recipe.fused_optimizer and not all(group.get("fused") for group in optimizer.param_groups),
                "the optimizer has no fused kernel",
            ),
            (
                "grad_checkpoint",
                recipe.grad_checkpoint and self._products is not None and not self._recomputed,
                "nothing was computed again",
            ),
            (UNMOVED, self._update_norm() == 0, "no update changed the weights"),
        )
        found: dict[str, str] = {}
        for field, is_missing, why in checks:
            if is_missing:
                found.setdefault(field, why)
        return found

    def facts(self) -> dict[str, str | int | float | bool]:
        """What was seen until now: name -> value."""
        found: dict[str, str | int | float | bool] = {"micro_batches_per_update": self._micro_batches}
        if self._products is not None:
            found["products"] = _name(self._products)
        if self._outputs is not None:
            found["outputs"] = _name(self._outputs)
        if self._recipe.compile != "off":
            now = _compiler_counts()
            found["graphs"] = self._graphs_when_warm - self._compiler["graphs"]
            found["graph_breaks"] = now["breaks"] - self._compiler["breaks"]
            found[RECOMPILED] = now["graphs"] - self._graphs_when_warm
            if self._cache:
                found[COMPILER_CACHE] = self._cache
        if self._recipe.cuda_graph:
            found["replays"] = self._replays()
        if self._pinned is not None:
            found["pinned"] = self._pinned
        norm = self._update_norm()
        if norm is not None:
            found["update_norm"] = float(f"{norm:.3g}")
        return found

    def tags(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
        """Both as tags, in JSON; see `missing` and `facts`."""
        return {
            NOT_ENGAGED_TAG: json.dumps(self.missing(model, optimizer)),
            ENGAGEMENT_TAG: json.dumps(self.facts()),
        }

    def _replays(self) -> int:
        return 0 if self.captured is None else self.captured.replays

    def _update_norm(self) -> float | None:
        """Norm of what all updates have changed the classifier's weights by; None where it has none."""
        if self._weight is None:
            return None
        parameter, before = self._weight
        return float((parameter.detach().cpu() - before).norm())


def _is_nhwc(kernel: Tensor) -> bool:
    """Whether a weight (O, I, H, W) lies as NHWC and not as NCHW; where both are the same it is neither's proof."""
    return kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()


def _products_are_rounded(device: torch.device) -> bool:
    """Whether a product of fp32 matrices rounds its factors to fewer than 13 binary digits, as TF32 does (11)."""
    factor = torch.full((_TF32_SIDE, _TF32_SIDE), 1 + 2**-12, device=device)
    return bool((factor @ torch.eye(_TF32_SIDE, device=device) != factor).any())


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def _compiler_counts() -> Counter[str]:
    """What the compiler has done in this process; nothing where it has not been imported."""
    utils = sys.modules.get("torch._dynamo.utils")
    counters: Mapping[str, Mapping[str, int]] = {} if utils is None else utils.counters

    def count(group: str, *names: str) -> int:
        values = counters.get(group, {})
        return sum(values.get(name, 0) for name in names) if names else sum(values.values())

    return Counter(
        graphs=count("stats", "unique_graphs"),
        breaks=count("graph_break"),
        cache_hits=count("inductor", "fxgraph_cache_hit"),
        cache_misses=count("inductor", "fxgraph_cache_miss", "fxgraph_cache_bypass"),
    )
