"""The window planner and the optimizer step: exact gradients, exact order, schedule steps that follow updates."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.design.spec import Recipe
from pipeline.training import precision as precision_module
from pipeline.training import warmup
from pipeline.training.optimizer import build_optimizer
from pipeline.training.precision import Precision
from pipeline.training.step import Learner, Window, optimizer_step, plan_windows
from tests.support.training import Batches, PlainCopier, no_clock, perceptron

CPU = torch.device("cpu")


@given(samples=st.integers(1, 5000), micro=st.integers(1, 300), factor=st.integers(1, 40))
def test_windows_hold_every_sample_once(samples: int, micro: int, factor: int) -> None:
    windows = plan_windows(samples, micro, factor)
    sizes = [size for window in windows for size in window.sizes]
    assert sum(sizes) == sum(window.total for window in windows) == samples
    assert all(size == micro for size in sizes[:-1]) and 1 <= sizes[-1] <= micro
    assert all(len(window.sizes) == factor for window in windows[:-1]) and 1 <= len(windows[-1].sizes) <= factor
    assert len(windows) == math.ceil(math.ceil(samples / micro) / factor)
    for window in windows:
        assert math.isclose(sum(window.shares), 1.0, rel_tol=1e-12)
        assert window.shares == tuple(size / window.total for size in window.sizes)


def test_windows_of_cifar_in_the_paper() -> None:
    windows = plan_windows(50_000, 128, 4)  # 391 batches, the last of 80
    assert len(windows) == 98 and windows[-1].sizes == (128, 128, 80) and windows[0].sizes == (128,) * 4
    windows = plan_windows(50_000, 64, 8)  # 782 batches, the last of 16
    assert len(windows) == 98 and windows[-1].sizes == (64,) * 5 + (16,)


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-3, 4, 2)])
def test_windows_refuse_what_is_below_one(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        plan_windows(*arguments)


def learner_of(recipe: Recipe, model: nn.Module, updates: int = 100) -> Learner:
    optimizer = build_optimizer(model, "test_resnet", recipe)
    precision = Precision(recipe, CPU)
    precision.watch(optimizer)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=updates)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return Learner(model, loss, optimizer, schedule, precision, recipe.clip_norm)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("batches", "micro", "last", "factor"),
    [(391, 3, 3, 4), (391, 3, 1, 4), (781, 2, 2, 8), (781, 2, 1, 8), (10, 4, 3, 1), (7, 4, 1, 7), (1, 4, 2, 4)],
)
def test_accumulated_gradient_is_the_concatenated_batchs(
    batches: int, micro: int, last: int, factor: int, label_smoothing: float
) -> None:
    windows = plan_windows((batches - 1) * micro + last, micro, factor)
    assert sum(len(window.sizes) for window in windows) == batches
    data = Batches([size for window in windows for size in window.sizes]).made
    model = perceptron()
    learner = learner_of(Recipe(optimizer="sgd", learning_rate=0.1, label_smoothing=label_smoothing), model)
    seen: list[list[Tensor]] = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    )
    stream = iter(data)
    place = 0
    for window in windows:
        parts = data[place : place + len(window.sizes)]
        place += len(parts)
        images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        whole = learner.criterion(model(images), labels)
        expected = torch.autograd.grad(whole, list(model.parameters()))
        loss = optimizer_step(learner, window, stream, PlainCopier(), no_clock)
        torch.testing.assert_close(seen[-1], list(expected), rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=0)
        assert not loss.requires_grad and loss.shape == ()
    assert len(seen) == len(windows) and next(stream, None) is None
    assert all(parameter.grad is None for parameter in model.parameters())


class Recorder:
    """Notes the calls of one optimizer step, in order, and whether autocast was on."""

    def __init__(self, learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.autocast: dict[str, set[bool]] = {}
        scaler = learner.precision.scaler
        for name in ("scale", "unscale_", "step", "update"):
            if scaler is not None:
                self._spy(monkeypatch, scaler, name, f"scaler.{name}")
        self._spy(monkeypatch, torch.Tensor, "backward", "backward")
        self._spy(monkeypatch, precision_module.nn.utils, "clip_grad_norm_", "clip")
        self._spy(monkeypatch, learner.schedule, "step", "schedule.step")
        self._spy(monkeypatch, learner.optimizer, "zero_grad", "zero_grad")
        learner.optimizer.register_step_pre_hook(lambda *_: self.note("optimizer.step"))
        learner.model.register_forward_pre_hook(lambda *_: self.note("forward"))
        for parameter in learner.model.parameters():
            parameter.register_hook(lambda _grad: self._note_autocast("gradient"))

    def _spy(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, label: str) -> None:
        original = getattr(owner, name)

        def spy(*args: Any, **kwargs: Any) -> Any:
            self.note(label)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, spy)

    def note(self, label: str) -> None:
        """Appends a call."""
        self.calls.append(label)
        self._note_autocast(label)

    def _note_autocast(self, label: str) -> None:
        self.autocast.setdefault(label, set()).add(torch.is_autocast_enabled("cpu"))


def one_step(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    model = perceptron(torch.float32)
    learner = learner_of(recipe, model)
    recorder = Recorder(learner, monkeypatch)
    data = Batches([4, 2], dtype=torch.float32)
    optimizer_step(learner, Window((4, 2)), iter(data.made), PlainCopier(), no_clock)
    return recorder


FORWARDS = ["forward", "scaler.scale", "backward"] * 2


def test_order_of_an_fp16_update(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = one_step(Recipe(precision="fp16", clip_norm=1.0, scaler_init_scale=128.0), monkeypatch)
    assert recorder.calls == [
        *FORWARDS,
        "scaler.unscale_",
        "clip",
        "scaler.step",
        "optimizer.step",
        "scaler.update",
        "zero_grad",
        "schedule.step",
    ]
    assert recorder.autocast.pop("forward") == {True}
    assert set(map(tuple, recorder.autocast.values())) == {(False,)}, "only the forward pass runs under autocast"


@pytest.mark.parametrize("precision", ["bf16", "fp32", "tf32"])
def test_order_without_a_scaler(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = one_step(Recipe(precision=precision, clip_norm=1.0), monkeypatch)
    plain = [call for call in FORWARDS if call != "scaler.scale"]
    assert recorder.calls == [*plain, "clip", "optimizer.step", "zero_grad", "schedule.step"]
    assert recorder.autocast.pop("forward") == {precision == "bf16"}
    assert set(map(tuple, recorder.autocast.values())) == {(False,)}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_clipping_sees_unscaled_gradients(precision: str, fused: bool) -> None:
    model = perceptron(torch.float32)
    clip = 1e-3
    recipe = Recipe(precision=precision, clip_norm=clip, fused_optimizer=fused, scaler_init_scale=1024.0)
    learner = learner_of(recipe, model)
    norms: list[float] = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters()])))
    )
    data = Batches([6], dtype=torch.float32)
    optimizer_step(learner, Window((6,)), iter(data.made), PlainCopier(), no_clock)
    assert norms == [pytest.approx(clip, rel=1e-2)]


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_schedule_follows_real_updates(optimizer: str, fused: bool, clip_norm: float | None) -> None:
    recipe = Recipe(
        precision="fp16",
        optimizer=optimizer,
        fused_optimizer=fused,
        clip_norm=clip_norm,
        scaler_init_scale=256.0,
        learning_rate=0.1,
    )
    model = perceptron(torch.float32)
    learner = learner_of(recipe, model)
    overflow = itertools.cycle([False, True, False, False, True, True])
    skip = False
    model[0].weight.register_hook(lambda grad: grad * math.inf if skip else None)
    steps, skipped = 12, 0
    for update in range(steps):
        skip = next(overflow)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        rate = learner.optimizer.param_groups[0]["lr"]
        optimizer_step(
            learner, Window((4, 3)), iter(Batches([4, 3], dtype=torch.float32).made), PlainCopier(), no_clock
        )
        learner.precision.settle()
        skipped += skip
        same = all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert same == skip, f"update {update}"
        assert learner.precision.skipped == skipped
        assert learner.schedule.last_epoch == update + 1 - skipped
        assert (learner.optimizer.param_groups[0]["lr"] == rate) == skip
    assert skipped == 6
    figures = learner.precision.metrics()
    assert figures == {"amp/skipped_steps": 6.0, "amp/final_scale": 256.0 / 2**6}


def test_a_scale_that_overflows_is_backed_off_until_updates_are_made() -> None:
    learner = learner_of(Recipe(precision="fp16", scaler_init_scale=2.0**24), perceptron(torch.float32))
    for _ in range(30):
        optimizer_step(learner, Window((4,)), iter(Batches([4], dtype=torch.float32).made), PlainCopier(), no_clock)
    assert 0 < learner.precision.skipped < 30
    assert learner.schedule.last_epoch == 30 - learner.precision.skipped


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_whole_window_is_not_weighted(share: float) -> None:
    learner = learner_of(Recipe(), perceptron())
    images, labels = Batches([4]).made[0]
    loss = learner.forward(images, labels, share)
    assert loss.grad_fn is not None
    assert loss.grad_fn.name().startswith("Mul" if share < 1 else "Nll"), "a weight of 1 would be two operations"


def test_full_precision_has_no_autocast_and_no_hook() -> None:
    learner = learner_of(Recipe(precision="fp32"), perceptron())
    assert not isinstance(learner.precision.autocast(), torch.autocast)
    assert not learner.optimizer._optimizer_step_post_hooks
    assert isinstance(Precision(Recipe(precision="bf16"), CPU).autocast(), torch.autocast)
    assert learner_of(Recipe(precision="fp16"), perceptron()).optimizer._optimizer_step_post_hooks


def test_phases_are_marked_in_order() -> None:
    marks: list[str] = []
    learner = learner_of(Recipe(), perceptron(torch.float32))
    optimizer_step(
        learner, Window((4, 2)), iter(Batches([4, 2], dtype=torch.float32).made), PlainCopier(), marks.append
    )
    micro = ["data_wait", "h2d", "data_wait", "forward", "backward"]
    assert marks == [*micro, *micro, "optimizer"]


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a value of the device."""

    WAITING = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.count += func._schema.name in self.WAITING
        return func(*args, **(kwargs or {}))


def plain_updates(recipe: Recipe, model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    """PyTorch's own recipe of a loop, as its notes on automatic mixed precision have it."""
    optimizer = build_optimizer(model, "test_resnet", recipe)
    half = recipe.precision == "fp16"
    scaler = torch.amp.GradScaler("cpu", enabled=half)
    for images, labels in data:
        with torch.autocast("cpu", dtype=torch.float16, enabled=half):
            loss = nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        if recipe.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize(("precision", "fused", "most"), [("fp32", False, 0), ("fp16", False, 6), ("fp16", True, 0)])
def test_an_update_waits_for_the_device_no_more_often_than_a_plain_loop(
    precision: str, fused: bool, most: int, clip_norm: float | None
) -> None:
    """Each read drains a GPU: what the tool itself adds would be in the effects that it measures."""
    recipe = Recipe(precision=precision, fused_optimizer=fused, optimizer="sgd", clip_norm=clip_norm)
    data = Batches([4] * 6, dtype=torch.float32).made
    learner = learner_of(recipe, perceptron(torch.float32))
    with Reads() as ours:
        batches = iter(data)
        for _ in data:
            optimizer_step(learner, Window((4,)), batches, PlainCopier(), no_clock)
        learner.precision.settle()
    with Reads() as plain:
        plain_updates(recipe, perceptron(torch.float32), data)
    print(f"reads in 6 updates, {precision}, fused {fused}: ours {ours.count}, plain loop {plain.count}")
    assert ours.count == plain.count == most
    assert learner.schedule.last_epoch == 6 and learner.precision.skipped == 0


def test_the_schedule_of_a_fused_update_is_in_time_for_the_next_one() -> None:
    """The host learns late that an update was skipped, but before the next one uses its rate."""
    recipe = Recipe(precision="fp16", fused_optimizer=True, optimizer="sgd", learning_rate=0.5, scaler_init_scale=64.0)
    model = perceptron(torch.float32)
    learner = learner_of(recipe, model, updates=10)
    skip = False
    model[0].weight.register_hook(lambda grad: grad * math.inf if skip else None)
    rates: list[float] = []
    learner.optimizer.register_step_pre_hook(lambda found, *_: rates.append(found.param_groups[0]["lr"]))
    for skip in (True, False, False, True, True, False):  # noqa: B007 - the hook reads it
        optimizer_step(learner, Window((4,)), iter(Batches([4], dtype=torch.float32).made), PlainCopier(), no_clock)
    assert rates == pytest.approx([0.5, 0.5, 0.45, 0.4, 0.4, 0.4])
    assert learner.precision.outcomes() == [False, True, True, False, False, True]
    assert learner.precision.outcomes() == [], "each is told once"
    assert (learner.precision.skipped, learner.schedule.last_epoch) == (3, 3)


class FixedPlace(torch.autograd.Function):
    """A linear layer whose weight gradient lies at the same place each time, as that of a replayed CUDA graph does."""

    place: Tensor

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return images @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        images, weight = ctx.saved_tensors
        place = FixedPlace.place
        torch.mm(gradient.t(), images, out=place)
        return gradient @ weight, torch.empty(0).set_(place.untyped_storage(), 0, place.shape, place.stride())


class Replayed(nn.Module):
    """Stands for a model that TorchInductor has recorded in graphs of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.weight = nn.Parameter(torch.randn(3, 5))
        FixedPlace.place = torch.empty(3, 5)

    def forward(self, images: Tensor) -> Any:
        return FixedPlace.apply(images, self.weight)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_gradients_of_the_compilers_own_graphs_add_up(mode: str) -> None:
    """A gradient that autograd takes over as it is would be overwritten by the next micro-batch (PyTorch #96693)."""
    model = Replayed()
    recipe = Recipe(optimizer="sgd", compile=mode, accumulation_steps=3, image_size=8)
    learner = learner_of(recipe, model)
    seen: list[Tensor] = []
    learner.optimizer.register_step_pre_hook(lambda *_: seen.append(model.weight.grad.clone()))
    data = Batches([4] * 6, dtype=torch.float32).made
    warmup._reserve_gradients(learner, model, data[0])
    stream = iter(data)
    for start in (0, 3):
        images, labels = (torch.cat(column) for column in zip(*data[start : start + 3], strict=True))
        whole = nn.functional.cross_entropy(images @ model.weight.t(), labels)
        (expected,) = torch.autograd.grad(whole, [model.weight])
        optimizer_step(learner, Window((4, 4, 4)), stream, PlainCopier(), no_clock)
        torch.testing.assert_close(seen[-1], expected)
    assert not Precision(Recipe(compile=mode), CPU).keeps_gradients, "a window of one micro-batch adds nothing up"
