"""Models that cannot be trained at a size or on one image, found out beforehand; and those that can, let through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.training import models
from pipeline.training.data_parallel import rank_windows
from pipeline.training.step import plan_windows
from pipeline.training.trainable import Trainable, smallest_micro_batch
from tests.support.training import small_spec


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("nproc", [1, 2, 3])
@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_the_smallest_micro_batch_is_that_of_the_windows(batch_size: int, nproc: int, accumulation_steps: int) -> None:
    for samples in (1, 2, 3, 9, 16, 17, 65, 66, 129):
        windows = plan_windows(samples, batch_size, accumulation_steps)
        ranks = [rank_windows(windows, rank, nproc)[0] for rank in range(nproc)] if nproc > 1 else [windows]
        smallest = min(size for own in ranks for window in own for size in window.sizes)
        assert smallest_micro_batch(samples, batch_size, nproc) == smallest


@pytest.mark.parametrize(
    ("samples", "recipe"),
    [
        (97, {}),
        (97, {"accumulation_steps": 4}),
        (97, {"batch_size": 1}),
        (1, {}),
        (97, {"grad_checkpoint": True}),
        (97, {"input_pipeline": "loader"}),
    ],
)
def test_one_image_where_batchnorm_has_one_value_per_channel(samples: int, recipe: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^recipe.batch_size: .*test_resnet.*more than 1 value.*allowed: ") as caught:
        Trainable().check(small_spec(**recipe), samples, 10)
    assert "\n" not in str(caught.value)


def test_in_several_processes() -> None:
    spec = small_spec().model_copy(update={"nproc": 2})
    Trainable().check(spec, 98, 10)
    Trainable().check(spec, 99, 10)
    with pytest.raises(InputError, match=r"allowed: another batch_size, or max_train_samples=96$"):
        Trainable().check(spec, 97, 10)


@pytest.mark.parametrize(
    ("model", "samples", "size"), [("test_vit", 97, 16), ("test_resnet", 96, 16), ("test_resnet", 97, 64)]
)
def test_a_model_that_can_is_let_through(model: str, samples: int, size: int) -> None:
    """One image is enough without BatchNorm, and for BatchNorm over more than one pixel."""
    Trainable().check(small_spec(model, image_size=size), samples, 10)


@pytest.mark.parametrize("model", ["timm:inception_v3", "timm:crossvit_tiny_240", "timm:efficientformer_l1"])
def test_an_architecture_that_cannot_run_at_its_size(model: str) -> None:
    with pytest.raises(InputError, match=rf"^recipe.image_size: 32 is not allowed for model {model}; allowed: a size"):
        Trainable().check(small_spec(model, image_size=32), 96, 10)


class Custom(nn.Module):
    """A linear model whose forward pass a test chooses."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)
        self._forward_pass = forward

    def forward(self, images: Tensor) -> Any:
        """As it was chosen."""
        return self._forward_pass(self.linear, images.mean((2, 3)))


def _values(linear: nn.Linear, features: Tensor) -> Tensor:
    out: Tensor = linear(features) * float(features.sum() + 1)  # no value on meta
    return out


def _without_backward(linear: nn.Linear, features: Tensor) -> Tensor:
    out: Tensor = linear(features).detach()
    return out


def _memory(_linear: nn.Linear, _features: Tensor) -> Tensor:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")


def test_what_meta_tensors_cannot_do_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for forward in (_values, _memory):
        monkeypatch.setattr(models, "build_model", lambda *_, chosen=forward: Custom(chosen))
        Trainable().check(small_spec(), 97, 10)


def test_the_backward_pass_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "build_model", lambda *_: Custom(_without_backward))
    with pytest.raises(InputError, match="does not require grad"):
        Trainable().check(small_spec(), 96, 10)


def test_each_model_and_size_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = models.build_model

    def build(*given: Any) -> nn.Module:
        calls.append(given[0])
        return original(*given)

    monkeypatch.setattr(models, "build_model", build)
    trainable = Trainable()
    for batch_size in (8, 16, 32, 64):
        trainable.check(small_spec("test_vit", batch_size=batch_size), 129, 10)
    assert len(calls) == 2, "once with several images, once with one"
    assert torch.get_default_device().type == "cpu"
