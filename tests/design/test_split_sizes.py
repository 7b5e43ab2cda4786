"""How many images are trained and validated on."""

from __future__ import annotations

import pytest

from pipeline.design.split_sizes import sizes


@pytest.mark.parametrize(
    ("n", "classes", "fraction", "max_samples", "expected"),
    [
        (1000, 10, 0.0, None, (1000, 0)),
        (1000, 10, 0.1, None, (900, 100)),
        (1000, 200, 0.1, None, (800, 200)),  # one image of each class at least
        (1000, 10, 0.1, 90, (90, 10)),  # the held-out part shrinks with the training part
        (1000, 10, 0.1, 45, (45, 10)),  # but not below the classes
        (1000, 10, 0.0, 45, (45, 0)),
        (1000, 10, 0.1, 5000, (900, 100)),  # more than there are is no bound
    ],
)
def test_sizes(n: int, classes: int, fraction: float, max_samples: int | None, expected: tuple[int, int]) -> None:
    assert sizes(n, classes, fraction, max_samples) == expected
