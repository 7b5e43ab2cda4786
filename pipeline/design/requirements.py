"""What a setting of a recipe needs in order to run: a device, a CUDA capability, a compiler, other fields.

A need belongs to the recipe field, not to the technique that sets it, so `--set compile=default` is checked like
`--techniques compile`. What the parent can know is refused when the plan is made (`check_recipe`), the rest by the
preflight before any run (`check_machine`). No torch here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.design.spec import CUDA_GRAPH_MODES, Device, Recipe
from pipeline.errors import InputError

Capability = tuple[int, int]
ANY: Capability = (0, 0)


@dataclass(frozen=True)
class Requirement:
    """What one setting needs.

    Attributes:
        setting: the recipe field.
        values: its values that have this need.
        why: the reason, a few words for the message.
        devices: where it can run.
        capability: least CUDA compute capability (major, minor), where it runs on CUDA.
        compiler: needs a C++ compiler (on CUDA also Triton).
        excludes: other fields -> their values that it cannot be combined with.
    """

    setting: str
    values: tuple[Any, ...]
    why: str
    devices: frozenset[Device] = frozenset(("cpu", "cuda"))
    capability: Capability = ANY
    compiler: bool = False
    excludes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def needed_by(self, recipe: Recipe) -> bool:
        """Says whether the recipe has one of the values."""
        return getattr(recipe, self.setting) in self.values

    def describe(self) -> list[str]:
        """Says what is needed, each need in a few words."""
        needs = [] if self.devices == frozenset(("cpu", "cuda")) else [" or ".join(sorted(self.devices))]
        if self.capability != ANY:
            needs.append(f"on cuda: capability {'.'.join(map(str, self.capability))}")
        if self.compiler:
            needs.append("a C++ compiler (on cuda: Triton too)")
        for other, values in self.excludes.items():
            words = other if values == (True,) else f"{other}={'/'.join(map(str, values))}"
            needs.append(f"not with {words}")
        return needs

    def refused(self, recipe: Recipe, but: str) -> InputError:
        """Makes the one line: field, value, what is allowed, why."""
        value = getattr(recipe, self.setting)
        return InputError(f"recipe.{self.setting}: {value!r} is not allowed {but} ({self.why})")


BF16 = Requirement("precision", ("bf16",), "bfloat16 arithmetic came with Ampere", capability=(8, 0))
TF32 = Requirement("precision", ("tf32",), "TensorFloat-32 came with Ampere", capability=(8, 0))
COMPILE = Requirement(
    "compile",
    ("default", "reduce-overhead", "max-autotune"),
    "TorchInductor generates C++ or Triton code",
    capability=(7, 0),
    compiler=True,
)
CUDA_GRAPH = Requirement(
    "cuda_graph",
    (True,),
    "CUDA graphs are a feature of CUDA devices",
    devices=frozenset(("cuda",)),
)
# reduce-overhead and max-autotune record CUDA graphs of their own; a recording cannot hold another one. The state
# of the generator that checkpointing saves for its second forward pass cannot be read during a capture.
CUDA_GRAPH_ALONE = Requirement(
    "cuda_graph",
    (True,),
    "the other one needs what a capture forbids",
    excludes={"compile": CUDA_GRAPH_MODES, "grad_checkpoint": (True,)},
)
GRAD_CHECKPOINT = Requirement(
    "grad_checkpoint",
    (True,),
    "the compiler decides itself what is recomputed, and would trace the guard of the BatchNorm statistics",
    excludes={"compile": COMPILE.values},
)
REQUIREMENTS = (BF16, TF32, COMPILE, CUDA_GRAPH, CUDA_GRAPH_ALONE, GRAD_CHECKPOINT)


def check_recipe(recipe: Recipe, device: Device) -> None:
    """Refuses what cannot run on the device, or not together, whatever the machine.

    Raises:
        InputError: names field, value, what is allowed and why.
    """
    for need in REQUIREMENTS:
        if not need.needed_by(recipe):
            continue
        if device not in need.devices:
            raise need.refused(recipe, f"on {device}; allowed: {' or '.join(sorted(need.devices))}")
        for other, values in need.excludes.items():
            found = getattr(recipe, other)
            if found in values:
                raise need.refused(recipe, f"with {other}={found}; allowed: one of the two")


@dataclass(frozen=True)
class Machine:
    """What the preflight has found.

    Attributes:
        capability: least compute capability of the visible CUDA devices; None without one.
        compiler: path of the C++ compiler; None when there is none.
        triton: whether Triton is installed.
    """

    capability: Capability | None
    compiler: str | None
    triton: bool


def check_machine(recipe: Recipe, device: Device, machine: Machine) -> None:
    """Refuses what this machine cannot do.

    Raises:
        InputError: names field, value, what is allowed and why.
    """
    for need in REQUIREMENTS:
        if not need.needed_by(recipe):
            continue
        found = machine.capability
        if device == "cuda" and found is not None and found < need.capability:
            least = ".".join(map(str, need.capability))
            raise need.refused(recipe, f"on capability {found[0]}.{found[1]}; allowed: from {least} up")
        if need.compiler and machine.compiler is None:
            raise need.refused(recipe, "without a C++ compiler; allowed: with g++ on PATH, or CXX naming another")
        if need.compiler and device == "cuda" and not machine.triton:
            raise need.refused(recipe, "on cuda without Triton; allowed: with the package triton installed")


def find_compiler() -> str | None:
    """Finds the C++ compiler that TorchInductor will use (`CXX`, else g++); None when there is none."""
    return shutil.which(os.environ.get("CXX") or "g++")


def key(recipe: Recipe) -> tuple[Any, ...]:
    """Returns the recipe's fields that have requirements: equal keys are allowed or refused together."""
    settings = {name for need in REQUIREMENTS for name in (need.setting, *need.excludes)}
    return tuple(getattr(recipe, name) for name in sorted(settings))
