"""Recipe -> optimizer and schedule. The schedule is defined over optimizer updates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from pipeline.design import catalog
from pipeline.design.spec import Recipe
from pipeline.training.models import classifier_names


def peak_learning_rate(recipe: Recipe) -> float:
    """Learning rate after scaling with the effective batch.

    `linear` is lr * B / B_ref (Goyal et al., arXiv 1706.02677), `sqrt` is lr * sqrt(B / B_ref) (Krizhevsky,
    arXiv 1404.5997), B being the effective batch and B_ref `lr_reference_batch`.
    """
    ratio = recipe.effective_batch / recipe.lr_reference_batch
    factor = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[recipe.lr_scaling]
    return recipe.learning_rate * factor


def parameter_groups(model: nn.Module, model_name: str, recipe: Recipe) -> list[dict[str, Any]]:
    """Splits parameters by weight decay (none for biases and norms) and by part of the model (backbone, neck, head).

    A parameter of at most one dimension is a bias or a norm's; it gets no weight decay, as do those that the
    model itself names (`no_weight_decay`: position embeddings, class tokens).

    Args:
        model: the model; frozen parameters are left out.
        model_name: name of the model in the catalog, which knows its neck.
        recipe: recipe of the run; rate, scales and weight decay are read.

    Returns:
        PyTorch's parameter groups, one for each pair of rate and weight decay.
    """
    named_by_model = getattr(model, "no_weight_decay", None)
    exempt = set(named_by_model()) if callable(named_by_model) else set()
    rate = peak_learning_rate(recipe)
    head, neck = classifier_names(model), catalog.model(model_name).neck
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0 if _under(name, head) else recipe.backbone_lr_scale
        scale = recipe.neck_lr_scale if _under(name, neck) else scale
        decay = 0.0 if parameter.ndim <= 1 or name in exempt else recipe.weight_decay
        groups.setdefault((rate * scale, decay), []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]


def _under(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def build_optimizer(model: nn.Module, model_name: str, recipe: Recipe) -> torch.optim.Optimizer:
    """Builds the optimizer of a recipe with its parameter groups; see `parameter_groups` for the arguments."""
    groups = parameter_groups(model, model_name, recipe)
    fused: dict[str, Any] = {"fused": True} if recipe.fused_optimizer else {}
    rate = peak_learning_rate(recipe)
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        made = torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=nesterov, **fused)
        if recipe.fused_optimizer and recipe.momentum > 0:
            _start_from_rest(made)
        return made
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, **fused)


def _start_from_rest(optimizer: torch.optim.SGD) -> None:
    """Gives every parameter a momentum of zero, which is what a first step without dampening makes of none.

    PyTorch's fused step allocates the buffer uninitialised and leaves it so when the gradient scaler has it skip the
    step, as it usually does with the first: the next step would take what lies there for momentum.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, updates_per_epoch: int) -> schedules.LRScheduler:
    """Builds the schedule over `epochs * updates_per_epoch` optimizer updates.

    `warmup` is a fraction of all updates: the rising part of one-cycle, a linear ramp from 1 % before the
    others. `exponential` multiplies by `schedule_gamma` once per epoch, spread evenly over its updates.
    One-cycle also cycles Adam's beta1, as PyTorch does; SGD's momentum stays the recipe's.

    Args:
        optimizer: optimizer whose groups have their peak rates.
        recipe: recipe of the run; epochs, schedule, `warmup` and `schedule_gamma` are read.
        updates_per_epoch: optimizer updates in one epoch.
    """
    total = recipe.epochs * updates_per_epoch
    if recipe.schedule == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # one-cycle asserts that its phases are not empty: at least one rising update, one falling
        rising = min(max(recipe.warmup, 1.0 / max(total, 1)), 0.99)
        return schedules.OneCycleLR(
            optimizer,
            rates,
            total_steps=max(total, 2) + 1,
            pct_start=rising,
            cycle_momentum=recipe.optimizer != "sgd",
        )
    ramp = round(recipe.warmup * total)
    main = _main_schedule(optimizer, recipe, max(total - ramp, 1), updates_per_epoch)
    if ramp == 0:
        return main
    rise = schedules.LinearLR(optimizer, start_factor=0.01, total_iters=ramp)
    return schedules.SequentialLR(optimizer, [rise, main], milestones=[ramp])


def _main_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, updates: int, updates_per_epoch: int
) -> schedules.LRScheduler:
    if recipe.schedule == "linear":
        return schedules.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=updates)
    if recipe.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=updates)
    if recipe.schedule == "exponential":
        return schedules.ExponentialLR(optimizer, gamma=recipe.schedule_gamma ** (1.0 / updates_per_epoch))
    return schedules.ConstantLR(optimizer, factor=1.0, total_iters=0)
