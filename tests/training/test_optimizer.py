"""Rate curves over updates, parameter groups and rate scaling."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.design.spec import Recipe
from pipeline.training import models
from pipeline.training.optimizer import build_optimizer, build_schedule, parameter_groups, peak_learning_rate
from pipeline.training.precision import Precision
from tests.support.training import perceptron

EPOCHS, PER_EPOCH = 4, 25
UPDATES = EPOCHS * PER_EPOCH
PEAK = 0.2


def curve(**recipe: object) -> list[float]:
    """The rate that each update uses."""
    made = Recipe.model_validate({"epochs": EPOCHS, "learning_rate": PEAK, "optimizer": "sgd", **recipe})
    optimizer = build_optimizer(perceptron(torch.float32), "test_resnet", made)
    schedule = build_schedule(optimizer, made, PER_EPOCH)
    rates = []
    for _ in range(UPDATES):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


MAIN: dict[str, Callable[[int, int], float]] = {
    "constant": lambda _k, _n: 1.0,
    "linear": lambda k, n: 1 - k / n,
    "cosine": lambda k, n: (1 + math.cos(math.pi * k / n)) / 2,
    "exponential": lambda k, _n: 0.8 ** (k / PER_EPOCH),
}


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.37])
@pytest.mark.parametrize("schedule", list(MAIN))
def test_rate_of_every_update(schedule: str, warmup: float) -> None:
    ramp = round(warmup * UPDATES)
    expected = [
        PEAK * (0.01 + 0.99 * k / ramp if k < ramp else MAIN[schedule](k - ramp, UPDATES - ramp))
        for k in range(UPDATES)
    ]
    rates = curve(schedule=schedule, warmup=warmup, schedule_gamma=0.8)
    assert rates == pytest.approx(expected, rel=1e-6)
    assert rates[-1] > 0, "no update is wasted on a rate of zero"


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_one_cycle(warmup: float) -> None:
    top = warmup * (UPDATES + 1) - 1

    def rate(k: int) -> float:
        start, end, share = (PEAK / 25, PEAK, k / top) if k <= top else (PEAK, PEAK / 25e4, (k - top) / (UPDATES - top))
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    rates = curve(schedule="onecycle", warmup=warmup)
    assert rates == pytest.approx([rate(k) for k in range(UPDATES)], rel=1e-6)
    assert abs(rates.index(max(rates)) - warmup * UPDATES) <= 1


@pytest.mark.parametrize("schedule", [*MAIN, "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_a_single_update_has_a_rate(schedule: str, warmup: float) -> None:
    recipe = Recipe(schedule=schedule, warmup=warmup, learning_rate=PEAK, optimizer="sgd")
    optimizer = build_optimizer(perceptron(torch.float32), "test_resnet", recipe)
    made = build_schedule(optimizer, recipe, 1)
    assert 0 < optimizer.param_groups[0]["lr"] <= PEAK * (1 + 1e-12)
    optimizer.step()
    made.step()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_one_cycle_leaves_the_recipes_momentum_alone(momentum: float) -> None:
    recipe = Recipe(optimizer="sgd", schedule="onecycle", momentum=momentum, warmup=0.3)
    optimizer = build_optimizer(perceptron(torch.float32), "test_resnet", recipe)
    schedule = build_schedule(optimizer, recipe, 10)
    for _ in range(10):
        assert [group["momentum"] for group in optimizer.param_groups] == [momentum] * len(optimizer.param_groups)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("scaling", "factor"), [("none", 1.0), ("linear", 64 * 4 / 128), ("sqrt", math.sqrt(64 * 4 / 128))]
)
def test_rate_scales_with_the_effective_batch(scaling: str, factor: float) -> None:
    recipe = Recipe(learning_rate=0.1, lr_scaling=scaling, lr_reference_batch=128, batch_size=64, accumulation_steps=4)
    assert peak_learning_rate(recipe) == pytest.approx(0.1 * factor)
    optimizer = build_optimizer(perceptron(torch.float32), "test_resnet", recipe)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.1 * factor)]


def settings_of(model: nn.Module, name: str, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Parameter name -> (rate, weight decay); each parameter is in exactly one group."""
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(model, name, recipe):
        for parameter in group["params"]:
            key = names[id(parameter)]
            assert key not in found
            found[key] = (group["lr"], group["weight_decay"])
    assert set(found) == set(names.values())
    return found


def test_biases_and_norms_have_no_decay() -> None:
    recipe = Recipe(image_size=16, weight_decay=0.3)
    model = models.build_model("test_resnet", recipe, 10)
    for name, (_rate, decay) in settings_of(model, "test_resnet", recipe).items():
        assert decay == (0.0 if model.get_parameter(name).ndim <= 1 else 0.3), name


def test_what_a_transformer_exempts_has_no_decay() -> None:
    recipe = Recipe(image_size=16, patch_size=8, weight_decay=0.3)
    model = models.build_model("test_vit", recipe, 10)
    decays = {name: decay for name, (_, decay) in settings_of(model, "test_vit", recipe).items()}
    exempt = {"pos_embed", "cls_token"} & set(decays)
    assert "pos_embed" in exempt and all(model.get_parameter(name).ndim > 1 for name in exempt)
    assert {decays[name] for name in exempt} == {0.0}
    assert decays["patch_embed.proj.weight"] == 0.3


def test_layered_rates() -> None:
    recipe = Recipe(image_size=16, learning_rate=1.0, backbone_lr_scale=0.1, neck_lr_scale=0.2)
    model = models.build_model("test_efficientnet", recipe, 10)
    rates = {name: rate for name, (rate, _) in settings_of(model, "test_efficientnet", recipe).items()}
    for name, rate in rates.items():
        part = name.split(".")[0]
        assert rate == {"classifier": 1.0, "conv_head": 0.2, "bn2": 0.2}.get(part, 0.1), name
    assert set(rates.values()) == {1.0, 0.2, 0.1}


def test_frozen_parameters_are_left_out() -> None:
    model = perceptron(torch.float32)
    model[0].weight.requires_grad_(False)
    grouped = [p for group in parameter_groups(model, "test_resnet", Recipe()) for p in group["params"]]
    assert len(grouped) == 3 and all(parameter.requires_grad for parameter in grouped)


@pytest.mark.parametrize(
    ("recipe", "kind", "options"),
    [
        ({"optimizer": "sgd", "momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ({"optimizer": "sgd", "momentum": 0.8, "nesterov": False}, torch.optim.SGD, {"nesterov": False}),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, torch.optim.SGD, {"momentum": 0.0}),
        ({"optimizer": "adam"}, torch.optim.Adam, {"fused": None}),
        ({"optimizer": "adamw", "fused_optimizer": True}, torch.optim.AdamW, {"fused": True}),
    ],
)
def test_optimizer_of_the_recipe(
    recipe: dict[str, object], kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    optimizer = build_optimizer(perceptron(torch.float32), "test_resnet", Recipe.model_validate(recipe))
    assert type(optimizer) is kind
    assert {name: optimizer.defaults[name] for name in options} == options


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("first_is_skipped", [False, True])
def test_momentum_starts_at_rest_however_the_first_update_ends(first_is_skipped: bool, nesterov: bool) -> None:
    """PyTorch's fused step leaves its new buffer as the allocator gave it where the gradient scaler skips the step."""
    steps: dict[bool, list[torch.Tensor]] = {}
    for fused in (False, True):
        model = perceptron(torch.float32)
        recipe = Recipe(
            precision="fp16", optimizer="sgd", fused_optimizer=fused, nesterov=nesterov, scaler_init_scale=64.0
        )
        optimizer = build_optimizer(model, "test_resnet", recipe)
        precision = Precision(recipe, torch.device("cpu"))
        precision.watch(optimizer)
        for update in range(3):
            garbage = [torch.full_like(p, 1e6) for p in model.parameters() for _ in range(64)]
            del garbage  # what an allocator hands out next
            precision.backward(model(torch.ones(2, 5)).sum())
            if update == 0 and first_is_skipped:
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad.fill_(math.inf)
            precision.update(optimizer, model, None, lambda: None)
        assert precision.outcomes() == [not first_is_skipped, True, True]
        steps[fused] = [parameter.detach().clone() for parameter in model.parameters()]
    for plain, fast in zip(steps[False], steps[True], strict=True):
        torch.testing.assert_close(fast, plain)
