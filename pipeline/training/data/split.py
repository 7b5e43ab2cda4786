"""Which images a run sees, and in which order: splits, subsets and epoch orders, all from seeds.

Pure functions of their arguments. Every input pipeline takes its order from `epoch_order`, so that paired
cells see the same images in the same order, whatever their batch size or pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.design.spec import RunSpec
from pipeline.design.split_sizes import sizes
from pipeline.errors import InputError

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
_MASK = 2**64 - 1
# streams of random numbers that must not depend on each other
_SPLIT, _SUBSET, _ORDER = 1, 2, 3
# test images are chosen alike in every run, so that accuracies of all seeds are of the same images
TEST_SEED = 0


def derive(seed: int, *parts: int) -> int:
    """Mixes a seed with numbers (an epoch, a sample's index) into a new seed in [0, 2**63).

    SplitMix64's finaliser, chained: neighbouring inputs give unrelated outputs, unlike their sum.
    """
    state = 0
    for part in (seed, *parts):
        state = (state + 0x9E3779B97F4A7C15 + (part & _MASK)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of `n` training samples in one epoch: int64 permutation of shape (n,), on the CPU."""
    generator = torch.Generator().manual_seed(derive(seed, _ORDER, epoch))
    return torch.randperm(n, generator=generator)


def train_validation(
    labels: Labels, fraction: float, seed: int, max_samples: int | None, own: int = 0
) -> tuple[Indices, Indices]:
    """Splits the training images into those to train on and those to validate on, stratified.

    Stratified by largest remainders with at least one image of every class in each part; scikit-learn's
    splitter refuses rare classes or loses them.

    Args:
        labels: class of every image, shape (n,).
        fraction: share of validation images, in [0, 1); 0 for no validation split.
        seed: the run's seed.
        max_samples: at most so many images to train on; the validation part shrinks with it.
        own: how many of the images, the last ones, are a validation part of its own, out of which that is taken; 0
            where it is a part of the training images.

    Returns:
        Sorted, disjoint indices (train, validation).

    Raises:
        InputError: a class has too few images for both parts, or there are fewer samples than classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    train_size, held_out_size = sizes(len(labels), len(classes), fraction, max_samples, own)
    if held_out_size == 0:
        return subset(labels[: len(labels) - own], train_size, seed), np.empty(0, dtype=np.int64)
    if own:
        first = len(labels) - own
        return subset(labels[:first], train_size, seed), first + subset(labels[first:], held_out_size, seed)
    rarest = int(counts.argmin())
    if counts[rarest] < 2 or train_size < len(classes):
        raise InputError(
            f"validation_fraction: {fraction} is not allowed; allowed: 0, or data with 2 or more images of "
            f"every class (class {int(classes[rarest])} has {int(counts[rarest])}; {train_size} of "
            f"{len(labels)} images are left to train on)"
        )
    total = train_size + held_out_size
    chosen = _stratified(labels, total, derive(seed, _SUBSET), least=2)
    held_out = _stratified(labels[chosen], held_out_size, derive(seed, _SPLIT), spare=1)
    mask = np.zeros(total, dtype=bool)
    mask[held_out] = True
    return chosen[~mask], chosen[mask]


def subset(labels: Labels, max_samples: int | None, seed: int) -> Indices:
    """Chooses at most `max_samples` images, stratified, every class present; sorted indices.

    Raises:
        InputError: there are fewer samples than classes.
    """
    if max_samples is None or max_samples >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    return _stratified(labels, max_samples, derive(seed, _SUBSET))


@dataclass(frozen=True)
class RunPart:
    """The images of a data set that a run reads; all indices are sorted.

    Attributes:
        train: rows of the training part that are trained on.
        validation: rows of the training part that are held out.
        test: rows of the test part.
    """

    train: Indices
    validation: Indices
    test: Indices

    @property
    def seen(self) -> Indices:
        """Rows of the training part that are read, whatever for; sorted."""
        return np.union1d(self.train, self.validation).astype(np.int64)


def part_of(spec: RunSpec, train_labels: Labels, test_labels: Labels, own: int = 0) -> RunPart:
    """Chooses the images of a run.

    Args:
        spec: the run; seed, `validation_fraction` and the two maxima are read.
        train_labels: class of every image of the training part.
        test_labels: likewise of the test part.
        own: see `train_validation`.

    Raises:
        InputError: there are too few images.
    """
    recipe = spec.recipe
    train, validation = train_validation(
        train_labels, recipe.validation_fraction, spec.seed, recipe.max_train_samples, own
    )
    return RunPart(train, validation, subset(test_labels, recipe.max_test_samples, TEST_SEED))


def _stratified(labels: Labels, total: int, seed: int, *, least: int = 1, spare: int = 0) -> Indices:
    """Draws `total` sorted indices; of every class at least `least`, and all but `spare` at most."""
    _classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if total < least * len(counts):
        raise InputError(
            f"max_train_samples or max_test_samples: {total} is not allowed; allowed: {least} or more images "
            f"for each of the {len(counts)} classes"
        )
    shares = _allocate(counts, total, least, spare)
    # RandomState's streams are frozen over numpy versions, those of default_rng are not
    random = np.random.RandomState(seed % 2**32)
    order = random.permutation(len(labels))
    by_class = order[np.argsort(inverse[order], kind="stable")]
    ends = np.cumsum(counts)
    parts = [
        by_class[end - count : end - count + share] for end, count, share in zip(ends, counts, shares, strict=True)
    ]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def _allocate(counts: Indices, total: int, least: int, spare: int) -> Indices:
    """Shares out `total` in proportion to `counts` by largest remainders; least <= share <= count - spare."""
    limit: Indices = counts - spare
    quota = counts * (total / counts.sum())
    shares: Indices = np.clip(np.floor(quota).astype(np.int64), least, limit)
    while (missing := total - int(shares.sum())) != 0:
        sign = 1 if missing > 0 else -1
        room = shares < limit if sign > 0 else shares > least
        need = np.where(room, sign * (quota - shares), -np.inf)
        best = np.argsort(-need, kind="stable")[: min(abs(missing), int(room.sum()))]
        shares[best] += sign
    return shares
