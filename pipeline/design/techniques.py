"""The table of techniques: each is data, a mapping of recipe to recipe over the fields that it owns.

Techniques of one study own disjoint fields, so they commute and none can be aliased with another. Trainer and
step never see a technique's name: they see a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.design import requirements
from pipeline.design.requirements import Requirement
from pipeline.design.spec import Device, Recipe
from pipeline.errors import InputError, not_allowed, suggest

Changes = dict[str, Any]
_DEVICES: tuple[Device, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class Technique:
    """One acceleration technique.

    Attributes:
        name: the name in commands, params and tables.
        title: what it is, in a few words.
        owns: the recipe fields that it may change, and no others.
        on: (recipe, value) -> the changed fields; `value` is the level, as text.
        default: device -> the level used when none is given.
        allowed: the levels that may be given, in words, for messages.
        inert_on: devices on which it has no effect (its cells are an A/A control there).
        requires: what its settings need (device, capability, compiler, other fields).
    """

    name: str
    title: str
    owns: tuple[str, ...]
    on: Callable[[Recipe, str], Changes]
    default: Mapping[Device, str]
    allowed: str
    inert_on: frozenset[Device] = frozenset()
    requires: tuple[Requirement, ...] = ()

    @property
    def devices(self) -> frozenset[Device]:
        """Devices on which it can run at all."""
        return frozenset(_DEVICES).intersection(*(need.devices for need in self.requires))

    def apply(self, recipe: Recipe, value: str) -> Recipe:
        """Returns the recipe with this technique on at level `value`.

        Raises:
            InputError: the level is not allowed, or leaves the recipe as it is.
        """
        try:
            changes = self.on(recipe, value)
            changed = Recipe.model_validate({**recipe.model_dump(), **changes})
        except ValueError:
            raise not_allowed(f"technique {self.name}", value, self.allowed) from None
        if changed == recipe:
            fields = ", ".join(f"{name}={getattr(recipe, name)}" for name in self.owns)
            raise InputError(
                f"technique {self.name}: {value!r} is not allowed; allowed: a level that differs from the "
                f"baseline recipe, which already has {fields}"
            )
        return changed


def _both(value: str) -> dict[Device, str]:
    return {"cpu": value, "cuda": value}


def _factor(recipe: Recipe, value: str) -> Changes:
    return {"accumulation_steps": recipe.accumulation_steps * _at_least_two(value)}


def _split(recipe: Recipe, value: str) -> Changes:
    factor = _at_least_two(value)
    if recipe.batch_size % factor:
        raise ValueError("the micro-batch would not be whole")
    return {
        "batch_size": recipe.batch_size // factor,
        "accumulation_steps": recipe.accumulation_steps * factor,
    }


def _at_least_two(value: str) -> int:
    factor = int(value)
    if factor < 2:
        raise ValueError("no accumulation")
    return factor


def _set(**changes: Any) -> Callable[[Recipe, str], Changes]:
    def on(_recipe: Recipe, value: str) -> Changes:
        if value != "on":
            raise ValueError("a switch")
        return changes

    return on


def _choose(name: str) -> Callable[[Recipe, str], Changes]:
    return lambda _recipe, value: {name: value}


_SWITCH = _both("on")
_CPU: frozenset[Device] = frozenset(("cpu",))
_TABLE = (
    Technique(
        "ga",
        "gradient accumulation, micro-batch fixed: the effective batch grows",
        ("accumulation_steps",),
        _factor,
        _both("2"),
        "a whole number from 2 up",
    ),
    Technique(
        "amp",
        "automatic mixed precision: fp16 with a gradient scaler on CUDA, bf16 on CPU",
        ("precision",),
        _choose("precision"),
        {"cuda": "fp16", "cpu": "bf16"},
        "fp16, bf16",
        requires=(requirements.BF16,),
    ),
    Technique(
        "pm",
        "pinned (page-locked) host memory with non-blocking copies",
        ("pin_memory", "non_blocking"),
        _set(pin_memory=True, non_blocking=True),
        _SWITCH,
        "on",
        inert_on=_CPU,
    ),
    Technique(
        "ga_fixed",
        "gradient accumulation, effective batch fixed: the micro-batch is divided",
        ("batch_size", "accumulation_steps"),
        _split,
        _both("2"),
        "a whole number from 2 up that divides the batch size",
    ),
    Technique(
        "bf16",
        "bfloat16 autocast, no scaler",
        ("precision",),
        _set(precision="bf16"),
        _SWITCH,
        "on",
        requires=(requirements.BF16,),
    ),
    Technique(
        "tf32",
        "TensorFloat-32 matrix products and convolutions",
        ("precision",),
        _set(precision="tf32"),
        _SWITCH,
        "on",
        inert_on=_CPU,
        requires=(requirements.TF32,),
    ),
    Technique("channels_last", "NHWC memory format", ("channels_last",), _set(channels_last=True), _SWITCH, "on"),
    Technique(
        "compile",
        "torch.compile; the warm-up is timed apart",
        ("compile",),
        _choose("compile"),
        _both("default"),
        "default, reduce-overhead, max-autotune",
        requires=(requirements.COMPILE,),
    ),
    Technique(
        "cuda_graph",
        "forward and backward passes are recorded once and replayed: one launch for all their kernels",
        ("cuda_graph",),
        _set(cuda_graph=True),
        _SWITCH,
        "on",
        requires=(requirements.CUDA_GRAPH, requirements.CUDA_GRAPH_ALONE),
    ),
    Technique(
        "grad_checkpoint",
        "activations are recomputed in the backward pass instead of being kept: less memory, more arithmetic",
        ("grad_checkpoint",),
        _set(grad_checkpoint=True),
        _SWITCH,
        "on",
        requires=(requirements.GRAD_CHECKPOINT,),
    ),
    Technique(
        "fused",
        "one fused kernel for the optimizer update",
        ("fused_optimizer",),
        _set(fused_optimizer=True),
        _SWITCH,
        "on",
    ),
    Technique(
        "pin_only",
        "pinned host memory, blocking copies",
        ("pin_memory",),
        _set(pin_memory=True),
        _SWITCH,
        "on",
        inert_on=_CPU,
    ),
    Technique(
        "non_blocking_only",
        "non-blocking copies from pageable memory",
        ("non_blocking",),
        _set(non_blocking=True),
        _SWITCH,
        "on",
        inert_on=_CPU,
    ),
    Technique(
        "device_data",
        "the training set lives in device memory",
        ("input_pipeline",),
        _set(input_pipeline="device"),
        _SWITCH,
        "on",
    ),
)
TECHNIQUES: Mapping[str, Technique] = {technique.name: technique for technique in _TABLE}


def get(name: str) -> Technique:
    """Looks a technique up.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return TECHNIQUES[name]
    except KeyError:
        raise not_allowed("technique", name, suggest(name, list(TECHNIQUES))) from None


def check_disjoint(names: list[str]) -> None:
    """Refuses a set of techniques of which two own the same field, since their effects would be aliased.

    Raises:
        InputError: names the two techniques and the field.
    """
    owner: dict[str, str] = {}
    for name in names:
        for owned in get(name).owns:
            if owned in owner:
                raise InputError(
                    f"techniques: {owner[owned]!r} with {name!r} is not allowed; allowed: techniques that own "
                    f"different recipe fields (both own {owned})"
                )
            owner[owned] = name
