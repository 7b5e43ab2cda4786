"""Augmentation: the batched one is torchvision's in law, seeded, and independent of the batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from pipeline.design.spec import Recipe
from pipeline.training.data import transforms
from pipeline.training.data.inputs import build_inputs
from pipeline.training.data.split import epoch_order
from pipeline.training.data.store import ImageStore
from pipeline.training.data.transforms import BatchTransform, crop_flip, padding, per_sample, resize
from tests.support.data import even, spec, whole

CPU = torch.device("cpu")


def batch(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def marked(side: int, count: int) -> ImageStore:
    """Images that tell where each pixel came from: channel 0 its column, channel 1 its row, both from 1."""
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0] = np.arange(1, side + 1)
    image[..., 1] = np.arange(1, side + 1)[:, None]
    images = np.repeat(image[None], count, axis=0)
    labels = np.arange(count, dtype=np.int64) % 2
    return ImageStore("digits", ("a", "b"), images, labels, images[:2], labels[:2], "")


@pytest.mark.parametrize("side", [8, 16, 32, 33])
def test_crop_flip_is_pad_crop_flip(side: int) -> None:
    x, pad = batch(60, side), padding(side)
    random = torch.Generator().manual_seed(2)
    offset = torch.randint(2 * pad + 1, (60, 2), generator=random)
    flip = torch.rand(60, generator=random) < 0.5
    made = crop_flip(x, offset, flip, pad)
    for row in range(60):
        padded = vision.pad(x[row], [pad], padding_mode="reflect")
        top, left = offset[row].tolist()
        expected = padded[:, top : top + side, left : left + side]
        assert torch.equal(made[row], expected.flip(-1) if flip[row] else expected)


def test_padding_is_the_papers_at_32_px() -> None:
    assert [padding(side) for side in (8, 16, 32, 224)] == [1, 2, 4, 28]


@pytest.mark.parametrize("side", [16, 32])
def test_affine_flip_is_torchvisions_affine(side: int) -> None:
    x = batch(40, side)
    uniform = torch.rand(4, 40, generator=torch.Generator().manual_seed(3))
    flip = torch.arange(40) % 2 == 0
    made = transforms.affine_flip(x, transforms._affine(uniform, side), flip)
    signed = 2 * uniform.double() - 1
    for row in range(40):
        expected = vision.affine(
            x[row],
            angle=10 * signed[0, row].item(),
            translate=[round(v) for v in (signed[2:, row] * 0.1 * side).tolist()],
            scale=1 + 0.1 * signed[1, row].item(),
            shear=[0.0, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(made[row], expected.flip(-1) if flip[row] else expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", [v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC])
@pytest.mark.parametrize(("native", "side"), [(8, 16), (32, 224), (32, 20), (128, 48), (150, 64), (64, 64)])
def test_resize_is_torchvisions(native: int, side: int, mode: v2.InterpolationMode) -> None:
    x = batch(3, native)
    expected = vision.resize(x, [side, side], interpolation=mode, antialias=True)
    torch.testing.assert_close(resize(x, side, mode), expected, atol=2e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(resize(x, side, mode), expected, atol=2e-6, rtol=0)


def offsets_and_flips(pipeline: str, count: int, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Where crop_flip cut each of `count` marked images, and whether it mirrored it, by sample."""
    side = 32
    run = spec(input_pipeline=pipeline, image_size=side, augmentation="crop_flip")
    inputs = build_inputs(run, marked(side, count), CPU)
    images = whole(inputs, number)[0]
    pixels = torch.round((images * 0.37574 + 0.30547) * 255)
    columns, rows = pixels[:, 0, side // 2], pixels[:, 1, :, side // 2]
    flip = columns[:, 15] > columns[:, 16]
    # the middle of the cut, which reflection at the border does not touch
    left = torch.where(flip, columns[:, 16], columns[:, 15]) - 16
    top = rows[:, 15] - 16
    offset, mirrored = np.empty((count, 2), dtype=int), np.empty(count, dtype=bool)
    order = epoch_order(count, 3, number).numpy()
    offset[order], mirrored[order] = torch.stack([left, top], dim=1).int().numpy(), flip.numpy()
    return offset, mirrored


@pytest.mark.parametrize("pipeline", ["loader", "gather", "device"])
def test_crops_are_uniform_and_half_are_flipped(pipeline: str) -> None:
    count = 3000
    offset, flip = offsets_and_flips(pipeline, count)
    assert abs(flip.mean() - 0.5) < 4 * math.sqrt(0.25 / count)
    for axis in (0, 1):
        found = np.bincount(offset[:, axis] + 4, minlength=9)
        # chi-square with 8 degrees of freedom: 26.1 has probability 0.001
        assert len(found) == 9 and ((found - count / 9) ** 2 / (count / 9)).sum() < 26.1
    assert abs(np.corrcoef(offset[:, 0], offset[:, 1])[0, 1]) < 0.08
    assert abs(np.corrcoef(offset[:, 0], flip)[0, 1]) < 0.08
    # samples beside each other must not share their draw
    assert abs(np.corrcoef(offset[:-1, 0], offset[1:, 0])[0, 1]) < 0.08


def test_affine_law_is_the_same_in_loader_and_batch() -> None:
    recipe = Recipe(image_size=32, augmentation="affine_flip", normalization="imagenet")
    store = marked(32, 1500)
    image = torch.from_numpy(store.train_images[0].copy())
    sample = per_sample(recipe, "digits", True, 32)
    torch.manual_seed(11)
    singles = torch.stack([sample(image.permute(2, 0, 1)) for _ in range(1500)])
    transform = BatchTransform(recipe, "digits", CPU, augment=True)
    batched = transform(torch.from_numpy(store.train_images), transform.draw(1500, 5, 1))
    for statistic in (torch.mean, torch.std):
        a, b = (statistic(images.flatten(2), dim=2) for images in (singles, batched))
        spread = torch.sqrt((a.var(0) + b.var(0)) / 1500)
        assert ((a.mean(0) - b.mean(0)).abs() < 4 * spread + 1e-6).all()
        assert ((a.std(0) / b.std(0)).clamp(1e-3) - 1).abs()[:2].max() < 0.15
    # pixel by pixel: mean image and its variance
    spread = torch.sqrt((singles.var(0) + batched.var(0)) / 1500)
    assert ((singles.mean(0) - batched.mean(0)).abs() <= 5 * spread + 1e-6).float().mean() > 0.999


def test_affine_draws_span_their_ranges() -> None:
    transform = BatchTransform(Recipe(image_size=40, augmentation="affine_flip"), "digits", CPU, augment=True)
    draws = transform.draw(20_000, 1, 1)
    assert draws is not None and draws.theta is not None
    linear = draws.theta[:, :, :2].double()
    scale = 1 / torch.linalg.det(linear).sqrt()
    angle = torch.atan2(linear[:, 0, 1], linear[:, 0, 0]) * 180 / math.pi
    shift = -(torch.linalg.inv(linear) @ draws.theta[:, :, 2:].double())[..., 0] * 20
    for values, low, high in ((scale, 0.9, 1.1), (angle, -10, 10)):
        assert (
            low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high + 1e-5
        )
        assert abs(values.mean() - (low + high) / 2) < 0.01 * (high - low)
    assert sorted(set(shift.round(decimals=3).flatten().tolist())) == list(range(-4, 5)), "whole pixels"
    assert abs(draws.flip.float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("pipeline", ["loader", "gather"])
def test_draws_differ_across_epochs_seeds_and_samples(pipeline: str) -> None:
    first, again, second = (offsets_and_flips(pipeline, 400, number)[0] for number in (1, 1, 2))
    assert np.array_equal(first, again)
    # two independent draws of 9 x 9 places agree in 1 of 81
    assert (first == second).all(axis=1).mean() < 0.06
    assert len({tuple(offset) for offset in first.tolist()}) > 70


def test_batched_draws_do_not_depend_on_batches() -> None:
    inputs = build_inputs(spec(image_size=32, augmentation="affine_flip"), marked(32, 200), CPU)
    reference = whole(inputs, 1, [200])[0]
    for size in (1, 7, 64):
        torch.testing.assert_close(whole(inputs, 1, even(200, size))[0], reference, atol=1e-6, rtol=0)


def test_none_draws_nothing() -> None:
    transform: Any = BatchTransform(Recipe(augmentation="none"), "digits", CPU, augment=True)
    assert transform.draw(10, 1, 1) is None
    unused = BatchTransform(Recipe(augmentation="crop_flip"), "digits", CPU, augment=False)
    assert unused.draw(10, 1, 1) is None
