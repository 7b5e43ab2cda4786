"""Splits, subsets and epoch orders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.training.data.split import derive, epoch_order, subset, train_validation

LABELS = np.repeat(np.arange(10), 50)


def test_split_is_stratified_disjoint_and_complete() -> None:
    train, validation = train_validation(LABELS, 0.1, 7, None)
    assert len(train) == 450 and len(validation) == 50
    assert sorted([*train, *validation]) == list(range(500))
    assert (np.bincount(LABELS[validation]) == 5).all() and (np.bincount(LABELS[train]) == 45).all()
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()


def test_split_follows_the_seed_and_nothing_else() -> None:
    first, again, other = (train_validation(LABELS, 0.1, seed, None)[1] for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # frozen: paired runs of different sessions and library versions must hold out the same images
    assert first[:6].tolist() == [1, 5, 7, 29, 46, 50]


def test_no_fraction_no_validation() -> None:
    train, validation = train_validation(LABELS, 0.0, 7, None)
    assert np.array_equal(train, np.arange(500)) and len(validation) == 0 and validation.dtype == np.int64


def test_max_samples_counts_training_images() -> None:
    train, validation = train_validation(LABELS, 0.2, 7, 100)
    assert len(train) == 100 and len(validation) == 25
    assert (np.bincount(LABELS[train]) == 10).all() and not set(train) & set(validation)
    train, validation = train_validation(LABELS, 0.0, 7, 100)
    assert len(train) == 100 and len(validation) == 0
    assert len(train_validation(LABELS, 0.2, 7, 10**9)[0]) == 400


def test_small_validation_has_every_class() -> None:
    _train, validation = train_validation(LABELS, 0.001, 7, None)
    assert (np.bincount(LABELS[validation], minlength=10) == 1).all()


def test_rare_classes_are_in_every_part() -> None:
    labels = np.array([0] * 500 + [1] * 2 + [2] * 3)
    train, validation = train_validation(labels, 0.1, 7, 20)
    assert set(labels[train]) == set(labels[validation]) == {0, 1, 2}
    # most of a rare class would round to all of it
    pair = np.array([0] * 50 + [1] * 2)
    train, validation = train_validation(pair, 0.8, 7, None)
    assert set(pair[train]) == set(pair[validation]) == {0, 1}


@pytest.mark.parametrize(
    ("labels", "fraction", "most", "said"),
    [
        ([0, 0, 0, 1], 0.5, None, "class 1 has 1"),
        ([0, 0, 1, 1], 0.5, 1, "validation_fraction"),
        ([0, 0, 1, 1], 0.0, 1, "max_train_samples"),
    ],
)
def test_too_few_images(labels: list[int], fraction: float, most: int | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        train_validation(np.array(labels), fraction, 0, most)


@settings(deadline=None, max_examples=300)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    fraction=st.one_of(st.just(0.0), st.floats(0.01, 0.9)),
    most=st.one_of(st.none(), st.integers(1, 400)),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_split(counts: list[int], fraction: float, most: int | None, seed: int) -> None:
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    try:
        train, validation = train_validation(labels, fraction, seed, most)
    except InputError:
        # refused only when a part cannot hold every class
        available = sum(counts) - max(round(fraction * sum(counts)), len(counts) if fraction else 0)
        assert min(available, most or available) < len(counts)
        return
    assert not set(train) & set(validation) and len(set(train)) == len(train)
    assert set(labels[train]) == set(labels) and (fraction == 0 or set(labels[validation]) == set(labels))
    if most is not None:
        assert len(train) <= most
    if most is None:
        assert len(train) + len(validation) == len(labels)


@settings(deadline=None, max_examples=200)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_any_subset(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    total = max(len(counts), round(share * len(labels)))
    chosen = subset(labels, total, seed)
    found = np.bincount(labels[chosen], minlength=len(counts))
    assert len(chosen) == total == len(set(chosen)) and found.min() >= 1
    quota = np.array(counts) * total / len(labels)
    # at most the classes raised to one image cost the others theirs
    assert (found <= np.maximum(np.ceil(quota), 1)).all()


def test_subset_without_limit_is_everything() -> None:
    assert np.array_equal(subset(LABELS, None, 1), np.arange(500))
    assert not np.array_equal(subset(LABELS, 50, 1), subset(LABELS, 50, 2))
    with pytest.raises(InputError, match="10 classes"):
        subset(LABELS, 9, 1)


def test_epoch_order_is_a_seeded_permutation() -> None:
    order = epoch_order(1000, 3, 1)
    assert sorted(order.tolist()) == list(range(1000))
    assert order[:6].tolist() == [244, 939, 596, 67, 516, 215], "frozen, for pairing over versions"
    others = [epoch_order(1000, 3, 2), epoch_order(1000, 4, 1), epoch_order(1000, 1, 3)]
    assert all((order != other).float().mean() > 0.99 for other in others)


def test_derived_seeds_do_not_collide() -> None:
    seeds = {derive(seed, stream, epoch) for seed in range(30) for stream in range(10) for epoch in range(100)}
    assert len(seeds) == 30_000 and min(seeds) >= 0 and max(seeds) < 2**63
    # torch's generator keeps 32 bits of a seed
    assert len({seed % 2**32 for seed in seeds}) > 29_980
