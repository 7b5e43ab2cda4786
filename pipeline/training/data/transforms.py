"""Augmentation and normalisation: batched on the device, and the same steps per sample for the loader.

The order is resize, augment, normalise, in float32, on both paths. `crop_flip` pads an eighth of the side by
reflection (4 px at 32 px, as the paper's code), crops at random and flips. `affine_flip` rotates by up to 10
degrees, shifts by up to a tenth of the side in whole pixels, scales by 0.9 to 1.1 (bilinear, black outside)
and flips. Every sample's draw depends on (seed, epoch, position), never on the batch it is in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional as nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from pipeline.design import catalog
from pipeline.design.spec import Recipe
from pipeline.training.data.split import derive

_AUGMENT = 4  # stream of random numbers, see `split`
_DEGREES, _SHIFT, _SCALE = 10.0, 0.1, 0.1
_MATMUL_SIDE = 128  # above, the kernel is faster than a matrix product
INTERPOLATION = {
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
}


def moments(recipe: Recipe, dataset: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Per-channel (mean, standard deviation) that a recipe normalises with, on the scale 0 to 1."""
    row = catalog.IMAGENET if recipe.normalization == "imagenet" else catalog.dataset(dataset)
    return row.mean, row.std


def padding(side: int) -> int:
    """Pixels that `crop_flip` pads on each side of an image of `side` px."""
    return max(1, side // 8)


def per_sample(recipe: Recipe, dataset: str, augment: bool, native: int) -> v2.Compose:
    """Torchvision's transforms for one image, uint8 (3, H, W), as a user of a DataLoader writes them.

    Args:
        recipe: the run's recipe.
        dataset: name, for mean and standard deviation.
        augment: whether to augment (training only).
        native: side of all images, px; 0 when they are of mixed sizes.

    Returns:
        The transform; its result is float32 (3, image_size, image_size).
    """
    side, interpolation = recipe.image_size, INTERPOLATION[recipe.interpolation]
    mean, std = moments(recipe, dataset)
    steps: list[torch.nn.Module] = []
    if native == 0:
        size = (side, side) if recipe.resize == "squash" else side
        steps += [v2.Resize(size, interpolation=interpolation, antialias=True), v2.CenterCrop(side)]
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if native not in (0, side):
        steps.append(_Resize(side, interpolation))
    if augment and recipe.augmentation == "crop_flip":
        steps += [
            v2.RandomCrop(side, padding=padding(side), padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
        ]
    elif augment and recipe.augmentation == "affine_flip":
        # fill=None is plain black outside; fill=0 would darken the border pixels twice
        steps += [
            v2.RandomAffine(
                _DEGREES,
                translate=(_SHIFT, _SHIFT),
                scale=(1 - _SCALE, 1 + _SCALE),
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=None,
            ),
            v2.RandomHorizontalFlip(),
        ]
    return v2.Compose([*steps, v2.Normalize(mean, std)])


@dataclass(frozen=True)
class Draws:
    """The augmentation of one epoch, on the device: one row per sample, in epoch order.

    Attributes:
        flip: bool (n,).
        offset: int64 (n, 2), top and left corner of the crop in the padded image.
        theta: float32 (n, 2, 3), the affine map of output to input coordinates, without the flip.
    """

    flip: torch.Tensor
    offset: torch.Tensor | None
    theta: torch.Tensor | None

    def at(self, positions: torch.Tensor) -> Draws:
        """The rows of these positions in the epoch's order, int64 (m,)."""
        rows = positions.to(self.flip.device)
        offset = None if self.offset is None else self.offset[rows]
        return Draws(self.flip[rows], offset, None if self.theta is None else self.theta[rows])


class BatchTransform:
    """Turns uint8 batches on the device into what the model takes.

    Args:
        recipe: recipe of the run; augmentation, image size, interpolation, normalisation and layout are read.
        dataset: name of the data set, for mean and standard deviation.
        device: where the batches are.
        augment: whether to augment (training only).
    """

    def __init__(self, recipe: Recipe, dataset: str, device: torch.device, *, augment: bool) -> None:
        mean, std = moments(recipe, dataset)
        shape = (1, 3, 1, 1)
        # (x / 255 - mean) / std in one pass over the batch
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(shape)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(shape)
        self._augmentation = recipe.augmentation if augment else "none"
        self._side = recipe.image_size
        self._interpolation = INTERPOLATION[recipe.interpolation]
        self._format = memory_format(recipe)
        self._device = device

    def draw(self, n: int, seed: int, epoch: int) -> Draws | None:
        """Draws one epoch's augmentation for `n` samples; None when the recipe has none.

        Drawn on the CPU, so that every device sees the same one, and copied once an epoch.
        """
        if self._augmentation == "none":
            return None
        random = torch.Generator().manual_seed(derive(seed, _AUGMENT, epoch))
        flip = torch.rand(n, generator=random) < 0.5
        offset = theta = None
        if self._augmentation == "crop_flip":
            offset = torch.randint(2 * padding(self._side) + 1, (n, 2), generator=random).to(self._device)
        else:
            theta = _affine(torch.rand(4, n, generator=random), self._side).to(self._device)
        return Draws(flip.to(self._device), offset, theta)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None, start: int = 0) -> torch.Tensor:
        """Resizes, augments and normalises a batch.

        Args:
            images: uint8 (B, H, W, 3), on the device.
            draws: the epoch's augmentation, or None for none.
            start: row of `draws` that belongs to the first image.

        Returns:
            float32 (B, 3, side, side) in the recipe's memory format.
        """
        x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        if x.shape[-1] != self._side:
            x = resize(x, self._side, self._interpolation)
        if draws is not None:
            rows = slice(start, start + len(images))
            if draws.offset is not None:
                x = crop_flip(x, draws.offset[rows], draws.flip[rows], padding(self._side))
            elif draws.theta is not None:
                x = affine_flip(x, draws.theta[rows], draws.flip[rows])
        return torch.addcmul(self._shift, x, self._scale).contiguous(memory_format=self._format)


class _Resize(torch.nn.Module):
    def __init__(self, side: int, interpolation: v2.InterpolationMode) -> None:
        super().__init__()
        self._side, self._interpolation = side, interpolation

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return resize(image, self._side, self._interpolation)


def resize(x: torch.Tensor, side: int, interpolation: v2.InterpolationMode) -> torch.Tensor:
    """Resizes square float images as torchvision does with antialiasing.

    On a CPU the float kernel is several times slower than the uint8 one, which would handicap both pipelines
    at 224 px; resizing is linear and separable, so small images are multiplied by the kernel's own weights.

    Args:
        x: float32 (..., S, S).
        side: px.
        interpolation: torchvision's mode.

    Returns:
        float32 (..., side, side).
    """
    native = x.shape[-1]
    if x.device.type == "cpu" and native <= _MATMUL_SIDE:
        weights = _weights(native, side, interpolation)
        # a caller's autocast must not round the images
        with torch.autocast("cpu", enabled=False):
            return weights @ x @ weights.T
    resized: torch.Tensor = vision.resize(x, [side, side], interpolation=interpolation, antialias=True)
    return resized


@lru_cache(maxsize=8)
def _weights(native: int, side: int, interpolation: v2.InterpolationMode) -> torch.Tensor:
    """The resize as a matrix (side, native): what it makes of each unit vector."""
    unit = torch.eye(native)[None]
    weights: torch.Tensor = vision.resize(unit, [side, native], interpolation=interpolation, antialias=True)[0]
    return weights


def memory_format(recipe: Recipe) -> torch.memory_format:
    """The layout in which batches reach the model."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def crop_flip(x: torch.Tensor, offset: torch.Tensor, flip: torch.Tensor, pad: int) -> torch.Tensor:
    """Pads by reflection, crops each image at its own place, and flips some: one gather of the batch.

    Args:
        x: float (B, C, S, S).
        offset: int64 (B, 2), top and left corner in the padded image, 0 to 2 * pad.
        flip: bool (B,), mirror left and right after the crop.
        pad: px, less than S.

    Returns:
        float (B, C, S, S).
    """
    batch, channels, side, _ = x.shape
    steps = torch.arange(side, device=x.device)
    columns = torch.where(flip[:, None], side - 1 - steps, steps)
    rows = _reflect(offset[:, :1] + steps - pad, side)
    columns = _reflect(offset[:, 1:] + columns - pad, side)
    index = (rows[:, :, None] * side + columns[:, None, :]).view(batch, 1, side * side)
    picked = x.reshape(batch, channels, side * side).gather(2, index.expand(-1, channels, -1))
    return picked.view(batch, channels, side, side)


def _reflect(position: torch.Tensor, side: int) -> torch.Tensor:
    return (side - 1) - ((side - 1) - position.abs()).abs()


def _affine(uniform: torch.Tensor, side: int) -> torch.Tensor:
    """Maps uniform numbers (4, n) in [0, 1) to affine maps (n, 2, 3) in `affine_grid`'s coordinates.

    Same distribution as torchvision's RandomAffine, which also shifts by whole pixels.
    """
    signed = 2 * uniform.double() - 1
    angle = signed[0] * math.radians(_DEGREES)
    scale = 1 + signed[1] * _SCALE
    shift = (signed[2:] * (_SHIFT * side)).round() * (2 / side)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    first = torch.stack([cosine, sine, -(cosine * shift[0] + sine * shift[1])], dim=1)
    second = torch.stack([-sine, cosine, -(cosine * shift[1] - sine * shift[0])], dim=1)
    return torch.stack([first, second], dim=1).float()


def affine_flip(x: torch.Tensor, theta: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Applies each image's affine map, then flips some; bilinear, black outside.

    Args:
        x: float (B, C, S, S).
        theta: float (B, 2, 3).
        flip: bool (B,).

    Returns:
        float (B, C, S, S).
    """
    # elementwise rather than `affine_grid`: its matrix product would follow the recipe's TF32 setting
    side = x.shape[-1]
    steps = (2 * torch.arange(side, device=x.device, dtype=theta.dtype) + 1) / side - 1
    # mirroring the output is mirroring the coordinate that the map starts from
    across = torch.where(flip[:, None], -steps, steps)[:, None, :, None]
    down = steps[:, None, None]
    of_x, of_y, shift = (column[:, None, None, :] for column in theta.unbind(dim=2))
    grid = across * of_x + down * of_y + shift
    return nn.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
