"""A small race, and contenders that only note their steps."""

from __future__ import annotations

from pipeline.bench.cases import CONTENDERS, Case, missing
from pipeline.bench.loops import interleave


class Noted:
    """A contender of three steps that notes each of them."""

    def __init__(self, name: str, seen: list[str], steps: int = 3) -> None:
        self.name, self.seen, self.steps = name, seen, steps

    def epoch(self, number: int) -> float:
        began = interleave.now()
        for step in range(self.steps):
            interleave.give_way()
            self.seen.append(f"{self.name}{number}.{step}")
        return interleave.now() - began


CASE = Case("test_resnet", batch=8, windows=3, rounds=2, threads=1, image_size=16)


HERE = tuple(name for name in CONTENDERS if missing(name) is None)
