"""Throughputs of four configurations, as a confirmation measures them."""

from __future__ import annotations

from pipeline.tuning import confirmation
from pipeline.tuning.space import Config
from tests.support.tuning import make_space

RATE = "throughput/images_per_second"


A, B, C, D = Config(64, 1), Config(128, 1), Config(128, 2), Config(256, 1)


SPACE = make_space(batches=[64, 128, 256], accumulations=[1, 2])


def values(**by_name: list[float | None]) -> confirmation.Values:
    """Throughputs by block, of configurations A to D."""
    made: dict[Config, dict[int, dict[str, float]]] = {}
    for name, found in by_name.items():
        rows = enumerate(found)
        made[globals()[name]] = {block: {RATE: value} for block, value in rows if value is not None}
    return made
