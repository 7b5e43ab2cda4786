"""The warm-up: everything is used before the clock starts, and nothing is left of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.design.spec import Recipe
from pipeline.training import warmup
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import Precision
from pipeline.training.step import Learner
from tests.support.training import Allocator

CPU = torch.device("cpu")


class Slow(nn.Module):
    """Slow at its first call of each shape, as a first use of libraries and a compiler are."""

    def __init__(self, plain: nn.Module, seconds: float) -> None:
        super().__init__()
        self.plain = plain
        self.seconds = seconds
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> Any:
        if tuple(images.shape) not in self.shapes:
            self.shapes.append(tuple(images.shape))
            time.sleep(self.seconds)
        return self.plain(images)


def noisy_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def learner_of(model: nn.Module, plain: nn.Module, recipe: Recipe) -> Learner:
    optimizer = build_optimizer(plain, "test_resnet", recipe)
    precision = Precision(recipe, CPU)
    precision.watch(optimizer)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return Learner(model, nn.CrossEntropyLoss(), optimizer, schedule, precision, None)


def check_warm_up(model: nn.Module, plain: nn.Module, recipe: Recipe, memory: Any = None) -> warmup.WarmUp:
    """Warms up and checks that nothing is left of it."""
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    random = torch.get_rng_state()
    learner = learner_of(model, plain, recipe)
    made = warmup.warm_up(learner, plain, recipe, [4, 2, 4], CPU, memory or DeviceMemory(CPU))
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert set(plain.state_dict()) == set(before)
    assert torch.equal(torch.get_rng_state(), random)
    kept = [parameter.grad for parameter in plain.parameters()]
    if learner.precision.keeps_gradients:
        assert all(grad is not None and not grad.any() for grad in kept)
    else:
        assert kept == [None] * len(kept)
    assert not any(state.get("step") for state in learner.optimizer.state.values())
    assert learner.precision.outcomes() == [] and learner.schedule.last_epoch == 0
    return made


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16", "fused_optimizer": True, "optimizer": "sgd"},
        {"channels_last": True, "accumulation_steps": 2},
        {"cuda_graph": True},
    ],
)
def test_every_cell_warms_up_before_its_clock_starts(recipe: dict[str, Any]) -> None:
    """The first use of libraries, algorithms and allocator is no part of training, whatever the recipe."""
    plain = noisy_model()
    model = Slow(plain, 0.05)
    made = check_warm_up(model, plain, Recipe(image_size=8, **recipe))
    assert model.shapes == [(4, 3, 8, 8), (2, 3, 8, 8)], "each size of the plan, the largest first"
    assert made.seconds > 0.1 and made.compile_seconds == 0.0 and made.hidden_bytes == 0


def test_the_compiler_is_timed_apart() -> None:
    plain = noisy_model()
    made = check_warm_up(Slow(plain, 0.05), plain, Recipe(compile="default", image_size=8))
    assert made.compile_seconds > 0.1 > made.seconds
    assert warmup.compile_model(plain, Recipe()) is plain


def test_what_the_search_for_algorithms_took_is_given_back() -> None:
    memory = Allocator()
    plain = noisy_model()
    check_warm_up(plain, plain, Recipe(image_size=8), memory)
    assert memory.calls[-1] == "release", "after the last of the first passes"


@pytest.mark.parametrize(
    ("mode", "shown", "hidden"),
    [
        ("reduce-overhead", (700, 50), 650),  # recorded, then replayed: only the gradients are seen
        ("max-autotune", (700, 50), 650),
        ("reduce-overhead", (700, 700), 0),  # the compiler has passed its graphs over, as it may: all is seen
        ("default", (700, 50), 0),
    ],
)
def test_memory_of_the_compilers_own_graphs_is_counted(mode: str, shown: tuple[int, int], hidden: int) -> None:
    """Once they are replayed, the allocator does not see their activations any more."""
    memory, plain = Allocator(), noisy_model()
    calls = 0

    class Recording(nn.Module):
        """The second call of a size is recorded, the third is replayed."""

        def forward(self, images: torch.Tensor) -> Any:
            nonlocal calls
            needs = (5000, *shown)[calls % 3]  # the first call's workspaces are not the graph's
            calls += 1
            memory.peak = max(memory.peak, memory.now + needs)
            return plain(images)

    assert check_warm_up(Recording(), plain, Recipe(compile=mode, image_size=8), memory).hidden_bytes == hidden


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_update_is_rehearsed_without_a_trace(
    precision: str, fused: bool, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[type] = []
    original = warmup.build_optimizer

    def spy(*arguments: Any) -> torch.optim.Optimizer:
        made = original(*arguments)
        made.register_step_post_hook(lambda found, *_: steps.append(type(found)))
        return made

    monkeypatch.setattr(warmup, "build_optimizer", spy)
    random = torch.get_rng_state()
    recipe = Recipe(precision=precision, fused_optimizer=fused, optimizer=optimizer, clip_norm=1.0)
    assert warmup.rehearse_update("test_resnet", recipe, CPU) > 0
    assert [kind.__name__.lower() for kind in steps] == [optimizer] and torch.equal(torch.get_rng_state(), random)


@pytest.mark.slow
def test_real_compilation_leaves_no_trace() -> None:
    plain = noisy_model()
    recipe = Recipe(compile="default", image_size=8)
    model = warmup.compile_model(plain, recipe)
    seconds = check_warm_up(model, plain, recipe).compile_seconds
    began = time.perf_counter()
    model(torch.zeros(4, 3, 8, 8))
    assert time.perf_counter() - began < seconds / 5, "compiled before, not now"
