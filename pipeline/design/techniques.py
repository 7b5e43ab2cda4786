"""The table of techniques: each is data, a mapping of recipe to recipe over the fields that it owns.

Techniques of one study own disjoint fields, so they commute and none can be aliased with another. Trainer and
step never see a technique's name: they see a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.design import requirements
from pipeline.design.names import BACKWARD, COMPUTE_PHASES, DATA_WAIT, FORWARD, H2D, IDLE, LAUNCHES, OPTIMIZER
from pipeline.design.requirements import Requirement
from pipeline.design.spec import Device, Recipe
from pipeline.errors import InputError, not_allowed, suggest

Changes = dict[str, Any]
Preserves = Literal["exact", "rounding", "changes"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class PartialSaving:
    """What a technique can save that takes only a part of its phases away.

    Attributes:
        by: how it saves, words that can be the subject of a sentence.
        part: level -> the part of the phases' time, a fraction.
    """

    by: str
    part: Callable[[str], float]


@dataclass(frozen=True, kw_only=True)
class Technique:
    """One acceleration technique. All that is said or known about it anywhere comes from here.

    Attributes:
        name: the name in commands, params and tables.
        description: what it does, in one sentence for the documents, without a final stop; with what it saves in
            memory, and with the exceptions from `preserves`.
        owns: the recipe fields that it may change, and no others.
        on: (recipe, value) -> the changed fields; `value` is the level, as text.
        preserves: what it leaves of the baseline's training in a model without BatchNorm and without augmentation:
            `exact` has the same operations on the same numbers, `rounding` the same computation with other rounding or
            another order of summation, `changes` is another computation, whose accuracy has to be compared.
        saves: what it takes time from: phases of the step, `idle`, or `LAUNCHES`; empty where it takes no work out of
            a step and lowers memory instead.
        default: device -> the level used when none is given; that of a switch is `on`.
        allowed: the levels that may be given, in words, for messages.
        inert_on: devices on which it has no effect (its cells are an A/A control there).
        requires: what its settings need (device, capability, compiler, other fields).
        partly: where it can save a part of `saves` only; None where it might save all of it.
    """

    name: str
    description: str
    owns: tuple[str, ...]
    on: Callable[[Recipe, str], Changes]
    preserves: Preserves
    saves: tuple[str, ...]
    default: Mapping[Device, str] = field(default_factory=lambda: _both("on"))
    allowed: str = "on"
    inert_on: frozenset[Device] = frozenset()
    requires: tuple[Requirement, ...] = ()
    partly: PartialSaving | None = None

    @property
    def devices(self) -> frozenset[Device]:
        """The devices on which it can run at all."""
        return frozenset(DEVICES).intersection(*(need.devices for need in self.requires))

    def needs(self) -> list[str]:
        """Says what it requires, in words; a need of some of its levels alone names the setting that has it."""
        found = []
        for need in self.requires:
            always = all(need.needed_by(self.apply(Recipe(), self.default[device])) for device in self.devices)
            setting = "" if always else f"{need.setting}={'/'.join(map(str, need.values))} "
            found += [setting + words for words in need.describe()]
        return found

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
            raise InputError(
                f"technique {self.name}: {value!r} is not allowed; allowed: a level that differs from the "
                f"baseline recipe, which already has {self.fields_of(recipe)}"
            )
        return changed

    def is_on(self, recipe: Recipe, value: str) -> bool:
        """Whether a recipe has all that the technique at level `value` would set."""
        try:
            return all(getattr(recipe, name) == wanted for name, wanted in self.on(recipe, value).items())
        except ValueError:  # a level that is not allowed
            return False

    def fields_of(self, recipe: Recipe) -> str:
        """What a recipe has in the fields that the technique owns, in words."""
        return ", ".join(f"{name}={getattr(recipe, name)}" for name in self.owns)


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
    # as it is written in names of cells: 04 and 4 would be two cells of one recipe
    if not re.fullmatch("[1-9][0-9]{0,6}", value) or value == "1":
        raise ValueError("no accumulation")
    return int(value)


def _set(**changes: Any) -> Callable[[Recipe, str], Changes]:
    def on(_recipe: Recipe, value: str) -> Changes:
        if value != "on":
            raise ValueError("a switch")
        return changes

    return on


def _choose(name: str) -> Callable[[Recipe, str], Changes]:
    return lambda _recipe, value: {name: value}


def _skipped_updates(level: str) -> float:
    """One optimizer step instead of n leaves 1/n of the steps."""
    try:
        count = float(level)
    except ValueError:  # a study that has one level only may call it `on`
        count = 2.0
    return 1.0 - 1.0 / max(count, 1.0)


_PASSES = (FORWARD, BACKWARD)
_CPU: frozenset[Device] = frozenset(("cpu",))
_TABLE = (
    Technique(
        name="ga",
        description="gradient accumulation, micro-batch fixed: the effective batch grows, so accuracy may change",
        owns=("accumulation_steps",),
        on=_factor,
        preserves="changes",
        saves=(OPTIMIZER, IDLE),
        partly=PartialSaving("fewer optimizer steps", _skipped_updates),
        default=_both("2"),
        allowed="a whole number from 2 up",
    ),
    Technique(
        name="amp",
        description="automatic mixed precision: fp16 with a gradient scaler on CUDA, bf16 on CPU; less "
        "activation memory",
        owns=("precision",),
        on=_choose("precision"),
        preserves="rounding",
        saves=_PASSES,
        default={"cuda": "fp16", "cpu": "bf16"},
        allowed="fp16, bf16",
        requires=(requirements.BF16,),
    ),
    Technique(
        name="pm",
        description="pinned (page-locked) host memory with non-blocking copies",
        owns=("pin_memory", "non_blocking"),
        on=_set(pin_memory=True, non_blocking=True),
        preserves="exact",
        saves=(H2D,),
        inert_on=_CPU,
    ),
    Technique(
        name="ga_fixed",
        description="gradient accumulation, effective batch fixed: the micro-batch is divided, for less activation "
        "memory; BatchNorm sees micro-batches",
        owns=("batch_size", "accumulation_steps"),
        on=_split,
        preserves="rounding",
        saves=(),
        default=_both("2"),
        allowed="a whole number from 2 up that divides the batch size",
    ),
    Technique(
        name="bf16",
        description="bfloat16 autocast, no scaler; less activation memory",
        owns=("precision",),
        on=_set(precision="bf16"),
        preserves="rounding",
        saves=_PASSES,
        requires=(requirements.BF16,),
    ),
    Technique(
        name="tf32",
        description="TensorFloat-32 matrix products and convolutions",
        owns=("precision",),
        on=_set(precision="tf32"),
        preserves="rounding",
        saves=_PASSES,
        inert_on=_CPU,
        requires=(requirements.TF32,),
    ),
    Technique(
        name="channels_last",
        description="NHWC memory format of weights and batches",
        owns=("channels_last",),
        on=_set(channels_last=True),
        preserves="rounding",
        saves=_PASSES,
    ),
    Technique(
        name="compile",
        description="torch.compile; compilation is timed apart",
        owns=("compile",),
        on=_choose("compile"),
        preserves="rounding",
        saves=(*COMPUTE_PHASES, IDLE),
        default=_both("default"),
        allowed="default, reduce-overhead, max-autotune",
        requires=(requirements.COMPILE,),
    ),
    Technique(
        name="fused",
        description="one fused kernel for the optimizer update",
        owns=("fused_optimizer",),
        on=_set(fused_optimizer=True),
        preserves="rounding",
        saves=(OPTIMIZER, IDLE),
    ),
    Technique(
        name="cuda_graph",
        description="forward and backward passes are recorded once and replayed: one launch for all their kernels",
        owns=("cuda_graph",),
        on=_set(cuda_graph=True),
        preserves="exact",
        saves=(LAUNCHES,),
        requires=(requirements.CUDA_GRAPH, requirements.CUDA_GRAPH_ALONE),
    ),
    Technique(
        name="grad_checkpoint",
        description="activations are recomputed in the backward pass instead of being kept: less memory, about a third "
        "more arithmetic; a timm model has to support it",
        owns=("grad_checkpoint",),
        on=_set(grad_checkpoint=True),
        preserves="exact",
        saves=(),
        requires=(requirements.GRAD_CHECKPOINT,),
    ),
    Technique(
        name="pin_only",
        description="pinned host memory, blocking copies",
        owns=("pin_memory",),
        on=_set(pin_memory=True),
        preserves="exact",
        saves=(H2D,),
        inert_on=_CPU,
    ),
    Technique(
        name="non_blocking_only",
        description="non-blocking copies from pageable memory",
        owns=("non_blocking",),
        on=_set(non_blocking=True),
        preserves="exact",
        saves=(H2D,),
        inert_on=_CPU,
    ),
    Technique(
        name="device_data",
        description="the training set lies in device memory, where it has to fit; with augmentation its samples are "
        "equal in distribution only",
        owns=("input_pipeline",),
        on=_set(input_pipeline="device"),
        preserves="exact",
        saves=(DATA_WAIT, H2D),
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
        raise not_allowed("technique", name, _named_otherwise(name) or suggest(name, list(TECHNIQUES))) from None


def _named_otherwise(name: str) -> str:
    """What is allowed, with the technique that owns a field of this name or whose description has its words."""
    words = set(re.split(r"[\W_]+", name.lower())) - {""}
    for technique in TECHNIQUES.values():
        described = set(re.split(r"[\W_]+", technique.description.lower()))
        if name in technique.owns or (words and words <= described):
            return f"{', '.join(TECHNIQUES)} (did you mean {technique.name}?)"
    return ""


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
