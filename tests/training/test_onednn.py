"""The way around oneDNN's fault: no gradient reads unwritten memory, and only strides without effect go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import models, onednn

TINY = Recipe(image_size=16)


def poison() -> None:
    """Leaves NaN in freed memory of many sizes, for whoever reads what nobody has written."""
    kept = [torch.full((2**power,), float("nan")) for power in range(6, 20) for _ in range(8)]
    del kept


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_bfloat16_gradients_on_a_cpu_are_of_written_memory(name: str) -> None:
    """At 16 px these models end in strided convolutions over one pixel, whose bfloat16 gradient oneDNN gets wrong."""
    torch.manual_seed(1)
    spec = RunSpec(model=name, dataset="digits", recipe=TINY.model_copy(update={"precision": "bf16"}))
    plain = models.build_model(name, spec.recipe, 10)
    model = models.build_model(name, spec.recipe, 10)
    model.load_state_dict(plain.state_dict())
    state = torch.get_rng_state()
    onednn.avoid_strided_pixels(model, spec)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), model.buffers(), strict=True))
    images, labels = torch.randn(12, 3, 16, 16), torch.arange(12) % 10
    torch.testing.assert_close(model(images), plain(images))  # in fp32, where the stride does no harm
    for _ in range(3):
        poison()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        poison()
        loss.backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
        model.zero_grad()


@pytest.mark.parametrize(
    ("layer", "strides"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (1, 1)),
        (nn.Conv2d(3, 4, 1, stride=2), (1, 1)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=2), (2, 2)),  # three places for the kernel without the stride
    ],
)
def test_only_a_stride_without_effect_is_taken(layer: nn.Conv2d, strides: tuple[int, int]) -> None:
    recipe = TINY.model_copy(update={"precision": "bf16", "image_size": 8})
    spec = RunSpec(model="test_resnet", dataset="digits", recipe=recipe)
    model = nn.Sequential(nn.AvgPool2d(8), layer)
    images = torch.randn(2, 3, 8, 8)
    before = model(images)
    onednn.avoid_strided_pixels(model, spec)
    assert layer.stride == strides
    torch.testing.assert_close(model(images), before)
    wide = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    onednn.avoid_strided_pixels(wide, spec)
    onednn.avoid_strided_pixels(wide, spec.model_copy(update={"device": "cuda"}))
    assert wide[0].stride == (2, 2)
